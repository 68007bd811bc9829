"""Every way out of the sandbox that is known, tried by a real program in a real sandbox."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from escape.ways_out import LIBC, WAYS
from sandbox_kit import ESCAPE, USERS, cell_of, need_user, python_of, run_inside

SECRET = "canary-of-the-environment"
MARK = "canary-of-the-victim"
Led = Callable[..., dict[str, str]]


# Ways that some machines close for everybody, and those that the last step of the launch
# closes with or without a sandbox.
MAY_BE_CLOSED = {
    "ask_the_metadata_service",
    "attach_to_a_process",
    "compare_processes",
    "gain_privileges_by_exec",
    "have_a_terminal",
    "inherit_descriptors",
    "inherit_the_environment",
    "io_uring",
    "join_a_namespace",
    "load_a_kernel",
    "load_a_module",
    "open_kernel_cryptography",
    "open_vsock",
    "read_a_disk",
    "read_the_kernel_log",
    "see_network_devices",
    "use_the_numbers_of_x32",
}


class Outside:
    """What there is to be found outside: a data folder, sockets that answer, a process."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.targets: dict[str, Any] = {"secret": SECRET, "victim_mark": MARK}
        self._make_files(folder)
        self._open_sockets(folder)
        self._start_victim()
        self._make_memory()
        self.list = self.source / "targets.json"
        self.list.write_text(json.dumps(self.targets))
        self.list.chmod(0o644)

    def _make_files(self, folder: Path) -> None:
        folder.chmod(0o755)
        journal, source, other = (folder / name for name in ("data/journal/1", "source/f.py", "o"))
        for path in (journal, source, other):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("canary")
            path.chmod(0o666)  # only the sandbox keeps anyone from it
        self.source = source.parent
        self.targets |= {"journal": str(journal), "data": str(journal.parent.parent)}
        self.targets |= {"source": str(source), "other_tmp": str(other)}

    def _open_sockets(self, folder: Path) -> None:
        kinds = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0slimq-canary-{os.getpid()}"),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        }
        for name, (family, kind, address) in kinds.items():
            link = self._stack.enter_context(socket.socket(family, kind))
            link.bind(address)
            bound = link.getsockname()
            if isinstance(bound, bytes):
                self.targets[name] = bound[1:].decode()
            else:
                self.targets[name] = bound if isinstance(bound, str) else bound[1]
            if name == "unix":
                Path(bound).chmod(0o777)
            if kind == socket.SOCK_STREAM:
                link.listen()
            threading.Thread(target=_answer, args=(link, kind), daemon=True).start()

    def _start_victim(self) -> None:
        self.victim = self._stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "input()", MARK], stdin=subprocess.PIPE)
        )
        self._stack.callback(self.victim.kill)
        self.targets["victim"] = self.victim.pid

    def _make_memory(self) -> None:
        key = 0x51_00_00_00 | os.getpid()
        number = LIBC.shmget(key, 4096, 0o1666)
        assert number >= 0
        self._stack.callback(LIBC.shmctl, number, 0, None)
        self.targets["shm_key"] = key

    def close(self) -> None:
        self._stack.close()


def _answer(link: socket.socket, kind: int) -> None:
    try:
        while True:
            if kind == socket.SOCK_DGRAM:
                link.sendto(b"hello", link.recvfrom(64)[1])
            else:
                caller = link.accept()[0]
                with caller:
                    caller.recv(64)
                    caller.sendall(b"hello")
    except OSError:  # the test is over
        return


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    with tempfile.TemporaryDirectory(prefix="slimq-outside-") as folder:  # pytest's are closed
        found = Outside(Path(folder))
        yield found
        found.close()


@pytest.fixture(scope="module")
def led(outside: Outside) -> Led:
    """Return what all ways led to, for a user; all are tried once, by one program."""

    @cache
    def of(user: str, unsafe: bool = False) -> dict[str, str]:
        need_user(user)
        cell = cell_of(user, outside.source, ESCAPE / "ways_out.py")
        program = [python_of(user), "-I", str(ESCAPE / "ways_out.py"), str(outside.list)]
        came = run_inside(user, program, cell, unsafe=unsafe, variables={"CANARY": SECRET})
        assert came.code == 0, came.err
        return json.loads(came.out)

    return of


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("user", USERS)
def test_no_way_leads_out(led: Led, user: str, way: str) -> None:
    assert not led(user)[way].startswith("OUT"), led(user)[way]


@pytest.mark.parametrize("user", USERS)
def test_no_process_outside_is_harmed(led: Led, outside: Outside, user: str) -> None:
    led(user)
    assert outside.victim.poll() is None


def test_as_root_each_client_is_a_user_of_its_own() -> None:
    need_user("root")
    users = [
        run_inside("root", ["/usr/bin/id", "-u"], cell_of("root", client=client)).out
        for client in ("acme", "globex", "acme")
    ]
    assert users[0] == users[2] != users[1]
    assert "0\n" not in users


def test_without_a_sandbox_the_same_ways_lead_out(led: Led) -> None:
    """Otherwise they would prove nothing. Last, because it kills the victim."""
    found = {way for way, end in led("root", unsafe=True).items() if end.startswith("OUT")}
    assert set(WAYS) - found <= MAY_BE_CLOSED
