"""Real handlers for the runners: a command in a process, an HTTP target in threads, and a
function in a warm context."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import uvloop
from function_behaviours import FUNCTION_BEHAVIOURS
from module_behaviours import MODULE_BEHAVIOURS
from script_behaviours import SCRIPT_BEHAVIOURS

from plain_sandbox import PlainSandbox
from slimq.core.handler import Handler, parse_options
from slimq.core.job import Batch, Job, Ran
from slimq.runner.address import AddressPolicy, Network
from slimq.runner.base import Runner
from slimq.runner.caller import Caller, NewSocket
from slimq.runner.cell import Cell
from slimq.runner.command import CommandRunner
from slimq.runner.context import Launcher
from slimq.runner.function import FunctionRunner
from slimq.runner.http import HttpRunner
from slimq.runner.http_connect import Connector
from slimq.runner.http_curl import CurlCaller
from slimq.runner.http_plain import PlainCaller
from slimq.runner.programs import Missing, find_programs
from slimq.system.clock import SystemClock

COMMAND = Path(__file__).with_name("command_behaviours.py")
LOOPBACK = [ip_network("127.0.0.0/8")]
PROGRAMS = find_programs()
SECRET = "whsec_" + "A" * 32


def id_of(index: int) -> str:
    return f"0abcdef-nodenode-{index:04}"


def batch_of(
    lang: str,
    body: str | list[str] | dict[str, Any],
    datas: list[bytes],
    *,
    client: str = "acme",
    version: int = 1,
    **written: Any,
) -> Batch:
    handler = Handler(
        client="*",
        jobtype="mail",
        version=version,
        lang=lang,
        body=body,
        options=parse_options(lang, written),
        written=written,
    )
    jobs = [
        Job(id_of(index), index + 1, failures=0, crashes=0, due_at=0, data=data)
        for index, data in enumerate(datas)
    ]
    return Batch(f"{client}/mail", handler, jobs)


def need_lang(lang: str) -> None:
    """Skip a test where nothing runs functions of a language, which is a defect in CI."""
    program = PROGRAMS.get(lang)
    if isinstance(program, Missing):
        pytest.fail(str(program)) if os.environ.get("CI") else pytest.skip(str(program))


def python(source: str, *arguments: str) -> list[str]:
    """Return a command that runs `source` in a bare interpreter."""
    return [sys.executable, "-I", "-S", "-c", source, *arguments]


def on_loop(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return uvloop.run(work())


def run_once(runner: Runner, batch: Batch) -> Ran:
    """Run a batch on a loop of its own, and close the runner."""

    async def once() -> Ran:
        try:
            return await runner.run(batch)
        finally:
            await runner.close()

    ran: Ran = on_loop(once)
    return ran


CALLERS = ("plain", "curl")


def make_http_runner(
    caller: str,
    *,
    allow: Sequence[Network] = LOOPBACK,
    ca_file: str | None = None,
    new_socket: NewSocket = socket.socket,
    **changes: Any,
) -> HttpRunner:
    """Return a runner as a node has it, or one that calls ``http://`` by libcurl, too."""
    policy = AddressPolicy(allow)
    callers: list[Caller] = [CurlCaller(policy, ca_file=ca_file, new_socket=new_socket)]
    if caller == "plain":
        callers.insert(0, PlainCaller(Connector(policy, new_socket)))
    settings: dict[str, Any] = {"clock": SystemClock(), "secrets": [SECRET]}
    return HttpRunner(policy=policy, callers=callers, **(settings | changes))


@dataclass
class Seen:
    """A request as it arrived."""

    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


Behaviour = Callable[[socket.socket, Seen], bytes | None]


@dataclass
class Target:
    """An HTTP server that does what the path says. A behaviour returns the bytes of its
    answer, or None to close the connection."""

    behaviours: dict[str, Behaviour]
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    received: int = 0
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    @contextmanager
    def serving(
        self, wrap: Callable[[socket.socket], socket.socket] | None = None
    ) -> Iterator[Target]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            open_now: list[socket.socket] = []
            thread = threading.Thread(target=self._accept, args=(listener, open_now, wrap))
            thread.start()
            try:
                yield self
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                for connection in open_now:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _accept(
        self,
        listener: socket.socket,
        open_now: list[socket.socket],
        wrap: Callable[[socket.socket], socket.socket] | None,
    ) -> None:
        threads: list[threading.Thread] = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            self.connections += 1
            open_now.append(connection)
            thread = threading.Thread(target=self._talk, args=(connection, self.connections, wrap))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _talk(
        self,
        connection: socket.socket,
        number: int,
        wrap: Callable[[socket.socket], socket.socket] | None,
    ) -> None:
        with connection, suppress(OSError):
            wire = wrap(connection) if wrap else connection
            with wire, wire.makefile("rb") as stream:
                while (seen := self._read(stream, number)) is not None:
                    self.seen.append(seen)
                    self.arrived.release()
                    path = seen.target.lstrip("/").partition("?")[0]
                    answer = self.behaviours[path](wire, seen)
                    if answer is None:
                        break
                    wire.sendall(answer)
        self.closed.release()

    def _read(self, stream: Any, number: int) -> Seen | None:
        first = stream.readline()
        self.received += len(first)
        if not first:
            return None
        headers = []
        while line := stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        length = int(dict(headers).get("content-length", 0))
        return Seen(first.split()[1].decode(), headers, stream.read(length), number)


def answer(body: bytes, code: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def until_closed(wire: socket.socket) -> None:
    """Say nothing until the other side goes."""
    while wire.recv(65_536):
        pass


def _lines(seen: Seen) -> list[bytes]:
    return seen.body.split(b"\n")[:-1]


def _digest(_: socket.socket, seen: Seen) -> bytes:
    said = [
        b"200 %d %s" % (len(line), hashlib.sha256(line).hexdigest().encode())
        for line in _lines(seen)
    ]
    return answer(b"\n".join(said) + b"\n")


def _fixed(said: Callable[[int], list[bytes]]) -> Behaviour:
    return lambda _, seen: answer(b"\n".join(said(len(_lines(seen)))) + b"\n")


def _drip(wire: socket.socket, _: Seen) -> None:
    wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    wire.settimeout(0.02)
    while True:
        wire.sendall(b"2")
        with suppress(TimeoutError):
            if not wire.recv(1):
                return


def _flood(wire: socket.socket, _: Seen) -> None:
    wire.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"200 flood\n" * 6553 + b"200 o\n\r\n"
    while True:
        wire.sendall(chunk)


# The names are those of command_behaviours.py: one conformance suite runs both.
HTTP_BEHAVIOURS: dict[str, Behaviour] = {
    "digest": _digest,
    "order": lambda _, seen: answer(b"".join(b"200 " + line + b"\n" for line in _lines(seen))),
    "garbage": _fixed(lambda n: [b"\xff\xfe 200", b"200garbage", b"999 no", b"20", b""] * n),
    "one_bad": _fixed(lambda n: [b"200 fine", b"what?", *[b"200 fine"] * (n - 2)]),
    "too_few": _fixed(lambda n: [b"200 fine"] * (n - 1)),
    "too_many": _fixed(lambda n: [b"200 fine"] * (n + 3)),
    "nothing": lambda _, seen: answer(b""),
    "statuses": _fixed(lambda n: [b"102 later", b"200 done", b"422 no", b"503 broken"]),
    "children": _fixed(
        lambda n: [
            b"#J: bill|for 0",
            b"200",
            b"#J: bill|",
            b"#J: not legal",
            b"# a log line",
            b"200",
            b"#J: log|end",
        ]
    ),
    "hang": lambda wire, _: until_closed(wire),
    "drip": _drip,
    "flood": _flood,
    "crash": lambda _, seen: None,
}


class ExecBench:
    lang = "exec"
    garbage = "malformed result line: '200garbage'"
    no_result = "no result line"
    bad_child = b"ignored 1 malformed #J: lines"

    @contextmanager
    def open(self) -> Iterator[ExecBench]:
        yield self

    def runner(self) -> Runner:
        return CommandRunner()

    def batch(self, behaviour: str, datas: list[bytes], **written: Any) -> Batch:
        command = [sys.executable, "-I", "-S", str(COMMAND), behaviour]
        return batch_of("exec", command, datas, **written)


class HttpBench:
    lang = "http"
    name = "http"
    caller = "plain"
    garbage = ExecBench.garbage
    no_result = ExecBench.no_result
    bad_child = ExecBench.bad_child

    def __init__(self) -> None:
        self.target = Target(HTTP_BEHAVIOURS)

    @contextmanager
    def open(self) -> Iterator[HttpBench]:
        with self.target.serving():
            yield self

    def runner(self) -> Runner:
        return make_http_runner(self.caller)

    def batch(self, behaviour: str, datas: list[bytes], **written: Any) -> Batch:
        return batch_of("http", self.target.url(behaviour), datas, batch_size=500, **written)


class CurlBench(HttpBench):
    """The same targets, called by libcurl."""

    name = "http by curl"
    caller = "curl"


class FunctionBench:
    lang = "python"
    garbage = "returned 999: a status is 1xx, 2xx, 4xx or 5xx"
    no_result = "no result"
    bad_child = b"'not legal' is no name of a jobtype"

    behaviours = FUNCTION_BEHAVIOURS

    def __init__(self, sandbox: Launcher | None = None) -> None:
        self.folder = Path()
        self.cells: list[Cell] = []
        self.sandbox: Launcher = sandbox or PlainSandbox(self.cells)

    @contextmanager
    def open(self) -> Iterator[FunctionBench]:
        with TemporaryDirectory() as folder:
            self.folder = Path(folder)
            yield self

    def runner(self, **changes: Any) -> FunctionRunner:
        settings: dict[str, Any] = {"memory_max": 1 << 30, "idle_s": 600.0, "programs": PROGRAMS}
        return FunctionRunner(self.sandbox, self.folder / "functions", **(settings | changes))

    def batch(self, behaviour: str, datas: list[bytes], **written: Any) -> Batch:
        return self.of(self.behaviours[behaviour], datas, **written)

    def of(self, source: str | dict[str, Any], datas: list[bytes], **written: Any) -> Batch:
        return batch_of(self.lang, source, datas, **written)


class NodeBench(FunctionBench):
    lang = "node"
    behaviours = SCRIPT_BEHAVIOURS


class DenoBench(NodeBench):
    lang = "deno"

    def of(self, source: str | dict[str, Any], datas: list[bytes], **written: Any) -> Batch:
        """A source that has no name would be TypeScript, which has no `exports`."""
        body = {"main.cjs": source} if isinstance(source, str) else source
        return super().of(body, datas, **written)


class WasmBench(FunctionBench):
    lang = "wasm"
    garbage = ExecBench.garbage
    bad_child = b"ignored 1 malformed children"

    def batch(self, behaviour: str, datas: list[bytes], **written: Any) -> Batch:
        return self.of(MODULE_BEHAVIOURS[behaviour](len(datas)), datas, **written)
