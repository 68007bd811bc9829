"""What there is outside of a sandbox, for those inside to find."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from escape.ways_out import LIBC

SECRET = "canary-of-the-environment"
_MARK = "canary-of-the-victim"


class Outside:
    """What there is to be found outside: a data folder, sockets that answer, a process."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.targets: dict[str, Any] = {"secret": SECRET, "victim_mark": _MARK}
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
            answering = threading.Thread(target=_answer, args=(link, kind), daemon=True)
            if kind == socket.SOCK_STREAM:  # who waits in accept() would hold the address
                link.listen()
                self._stack.callback(answering.join)
                self._stack.callback(link.shutdown, socket.SHUT_RDWR)
            answering.start()

    def _start_victim(self) -> None:
        self.victim = self._stack.enter_context(
            subprocess.Popen([sys.executable, "-c", "input()", _MARK], stdin=subprocess.PIPE)
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
