"""The way out of functions that may use the network: to what the policy permits, and no further."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from sandbox_kit import DEADLINE_S, Came, cell_of, need_user, python_of
from slimq.runner.address import AddressPolicy
from slimq.runner.egress import Egress
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups

US = "root" if os.geteuid() == 0 else "nobody"
HERE = (ip_network("127.0.0.1"),)
TALK = """
import socket, sys
with socket.create_connection(("127.0.0.1", 3128), 30) as link:
    link.sendall(sys.argv[1].encode("latin-1").decode("unicode_escape").encode("latin-1"))
    link.settimeout(30)
    while chunk := link.recv(65536):
        sys.stdout.write(chunk.decode("latin-1"))
"""
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=30).read().decode())"


class Canary:
    """A server on loopback that keeps what it gets, and answers."""

    def __init__(self) -> None:
        self.got = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.got += await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()[1]


async def inside(
    program: str, *words: str, allow: Sequence[object] = (), asks: bool = True
) -> Came:
    """Run a program of Python in a sandbox whose way out permits `allow` and public addresses."""
    way_out = Egress(AddressPolicy(allow))  # type: ignore[arg-type]
    sandbox = Sandbox(ControlGroups(), python=Path(python_of(US)), way_out=way_out)
    command = [python_of(US), "-I", "-c", program, *words]
    launch = sandbox.launch(command, cell_of(US, network=asks))
    process = await asyncio.create_subprocess_exec(
        *launch.argv,
        env=launch.env,
        pass_fds=launch.pass_fds,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    launch.close_fds()
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        launch.limits.close()
        way_out.close()
    assert process.returncode is not None
    return Came(process.returncode, out.decode(), err.decode(), [], None)


@pytest.fixture(autouse=True)
def _sandbox_is_here() -> None:
    need_user(US)


def test_what_is_permitted_is_fetched() -> None:
    async def scene() -> None:
        canary = Canary()
        async with canary.listening() as port:
            came = await inside(FETCH, f"http://127.0.0.1:{port}/a?b=c", allow=HERE)
        assert (came.code, came.out) == (0, "hello\n"), came.err
        assert canary.got.startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"proxy" not in canary.got.lower()

    asyncio.run(scene())


def test_a_tunnel_carries_any_bytes() -> None:
    async def scene() -> None:
        canary = Canary()
        async with canary.listening() as port:
            wish = f"CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\n\\r\\n\\x00\\xff\\n"
            came = await inside(TALK, wish, allow=HERE)
        assert came.out.startswith("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK"), came.err
        assert canary.got == b"\x00\xff\n"

    asyncio.run(scene())


FORBIDDEN = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::]",
    "x@127.0.0.1",
]


@pytest.mark.parametrize("host", FORBIDDEN)
@pytest.mark.parametrize("kind", ["CONNECT {}:{} HTTP/1.1", "GET http://{}:{}/ HTTP/1.1"])
def test_nothing_of_the_machine_is_reached(host: str, kind: str) -> None:
    async def scene() -> None:
        canary = Canary()
        async with canary.listening() as port:
            came = await inside(TALK, kind.format(host, port) + "\\r\\n\\r\\n")
        assert came.out.startswith("HTTP/1.1 403 "), came
        assert canary.got == b""

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "[fd00::1]", "168.63.129.16"])
def test_nothing_near_the_machine_is_reached(host: str) -> None:
    came = asyncio.run(inside(TALK, f"CONNECT {host}:80 HTTP/1.1\\r\\n\\r\\n"))
    assert came.out.startswith("HTTP/1.1 403 "), came


@pytest.mark.parametrize(
    "wish",
    [
        "nonsense\\r\\n\\r\\n",
        "GET / HTTP/1.1\\r\\n\\r\\n",
        "GET ftp://example.org/ HTTP/1.1\\r\\n\\r\\n",
        "CONNECT :80 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT a:99999 HTTP/1.1\\r\\n\\r\\n",
        "CONNECT a:80 HTTP/2\\r\\n\\r\\n",
        "CONNECT \\xe9:80 HTTP/1.1\\r\\n\\r\\n",
        "X" * 20_000,
    ],
)
def test_what_is_no_request_is_refused(wish: str) -> None:
    assert asyncio.run(inside(TALK, wish)).out.startswith("HTTP/1.1 400 ")


def test_there_is_no_way_but_the_proxy() -> None:
    """A connection made directly ends in the network of the sandbox, where nobody is."""
    program = """
import socket, sys
for family, kind, host in ((2, 1, "127.0.0.1"), (2, 2, "127.0.0.1"), (2, 1, "192.0.2.1")):
    try:
        with socket.socket(family, kind) as link:
            link.settimeout(2)
            link.connect((host, int(sys.argv[1])))
            link.send(b"out?")
            link.recv(10)
        print("OUT")
    except OSError as error:
        print(type(error).__name__)
"""

    async def scene() -> None:
        canary = Canary()
        async with canary.listening() as port:
            came = await inside(program, str(port), allow=HERE)
        assert came.code == 0, came.err
        assert "OUT" not in came.out
        assert canary.got == b""

    asyncio.run(scene())


def test_who_does_not_ask_gets_no_network() -> None:
    program = "import os; print([name for name in os.environ if 'proxy' in name.lower()])"
    assert asyncio.run(inside(program, asks=False)).out == "[]\n"
    came = asyncio.run(inside(TALK, "x", asks=False))
    assert came.code != 0
    assert came.out == ""


def test_a_gate_leaves_no_descriptor_and_no_task() -> None:
    async def scene() -> None:
        canary = Canary()
        async with canary.listening() as port:
            before = None
            for _ in range(3):
                came = await inside(FETCH, f"http://127.0.0.1:{port}/", allow=HERE)
                assert came.code == 0, came.err
                async with asyncio.timeout(DEADLINE_S):
                    while len(asyncio.all_tasks()) > 1:
                        await asyncio.sleep(0)
                open_now = len(list(Path("/proc/self/fd").iterdir()))
                before = before or open_now
                assert open_now == before

    asyncio.run(scene())
