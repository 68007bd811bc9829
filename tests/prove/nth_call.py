"""Run a command, and kill it as SIGKILL does at its N-th system call that changes a folder or
says something to a database; or let that call fail, or that and all after it.

`python nth_call.py N kill|ERROR|ERROR+ FOLDER COMMAND...`, ERROR being a number. The call is not
made: what the disk holds is what the calls before it did. All threads count together, which
strace cannot do. A filter in the kernel stops the command at such calls only, so that it is
hardly slower than without. The exit code is that of the command (-9: it was killed); the file
FOLDER/../calls says how many such calls it made.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from pathlib import Path

CALLS = {
    "x86_64": {
        "write": 1, "pwrite64": 18, "writev": 20, "sendfile": 40, "sendto": 44,
        "fsync": 74, "fdatasync": 75, "ftruncate": 77, "rename": 82,
        "mkdir": 83, "unlink": 87, "openat": 257, "unlinkat": 263,
        "renameat": 264, "fallocate": 285, "pwritev": 296, "renameat2": 316,
        "copy_file_range": 326, "pwritev2": 328,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "renameat": 38, "ftruncate": 46, "fallocate": 47,
        "openat": 56, "write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "sendfile": 71,
        "fsync": 82, "fdatasync": 83, "sendto": 206, "renameat2": 276,
        "copy_file_range": 285, "pwritev2": 287,
    },
}  # fmt: skip
BY_PATH = ("rename", "mkdir", "unlink")  # the first argument is a path
BY_FOLDER = ("mkdirat", "openat", "unlinkat", "renameat", "renameat2")
TO_SECOND = ("copy_file_range",)  # the third argument is the file that is written

_CONT, _GETREGS, _SETREGS, _SEIZE, _CALL_INFO = 7, 12, 13, 0x4206, 0x420E
_RESULT_REGISTER, _CALL_REGISTER = 10, 15  # of x86_64
_FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _EXITKILL = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 7, 1 << 20
_OPTIONS = _FORK | _VFORK | _CLONE | _EXEC | _SECCOMP | _EXITKILL
_SECCOMP_EVENT = 7
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _stop_at(numbers: list[int]) -> None:
    """Let the kernel stop this process, and all it becomes, at these calls."""
    code = [struct.pack("<HBBI", _LOAD, 0, 0, 0)]
    left = len(numbers)
    for number in numbers:
        code.append(struct.pack("<HBBI", _EQUAL, left, 0, number))
        left -= 1
    code.append(struct.pack("<HBBI", _RETURN, 0, 0, _ALLOW))
    code.append(struct.pack("<HBBI", _RETURN, 0, 0, _TRACE))
    text = ctypes.create_string_buffer(b"".join(code))
    program = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(text))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    assert _libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0) == 0, "no seccomp"


class Tracer:
    def __init__(self, folder: Path, hit: int, fault: str) -> None:
        self._folder = str(folder)
        self._hit = hit
        self._kills = fault == "kill"
        self._goes_on = fault.endswith("+")
        self._error = 0 if self._kills else int(fault.rstrip("+"))
        self._names = {number: name for name, number in CALLS[platform.machine()].items()}
        self._root = 0
        self.count = 0

    def run(self, command: list[str]) -> int:
        """Return how the command ended, as subprocess does."""
        ready, go = os.pipe()
        self._root = os.fork()
        if self._root == 0:
            os.close(go)
            os.read(ready, 1)  # until it is traced
            _stop_at(list(self._names))
            os.execvp(command[0], command)
        _ptrace(_SEIZE, self._root, 0, _OPTIONS)
        os.close(ready)
        os.close(go)
        while True:
            pid, status = os.waitpid(-1, _ALL)
            if os.WIFSTOPPED(status):
                self._stopped(pid, status)
            elif pid == self._root:
                return os.waitstatus_to_exitcode(status)

    def _stopped(self, pid: int, status: int) -> None:
        event, number = status >> 16, os.WSTOPSIG(status)
        try:
            if event == _SECCOMP_EVENT and self._changes(pid):
                self.count += 1
                if self.count == self._hit or (self._goes_on and self.count > self._hit):
                    self._strike(pid)
            is_signal = event == 0
            _ptrace(_CONT, pid, 0, number if is_signal else 0)
        except ProcessLookupError:
            pass  # it was killed

    def _strike(self, pid: int) -> None:
        if self._kills:
            os.kill(self._root, signal.SIGKILL)
            return
        registers = (ctypes.c_ulonglong * 27)()
        _ptrace(_GETREGS, pid, 0, registers)
        registers[_CALL_REGISTER] = 2**64 - 1  # no call
        registers[_RESULT_REGISTER] = 2**64 - self._error
        _ptrace(_SETREGS, pid, 0, registers)

    def _changes(self, pid: int) -> bool:
        """Return whether a call is one of the process itself that changes the folder."""
        if _group_of(pid) != self._root:
            return False
        info = ctypes.create_string_buffer(96)
        _ptrace(_CALL_INFO, pid, 96, info)
        number, *arguments = struct.unpack_from("<7Q", info, 24)
        name = self._names[number]
        if name == "sendto":
            return True  # to a database
        if name == "openat" and not arguments[2] & os.O_CREAT:
            return False
        if name in BY_PATH:
            return self._is_inside(_text(pid, arguments[0]))
        file = arguments[2 if name in TO_SECOND else 0]
        if name in BY_FOLDER and ctypes.c_int(file).value < 0:
            return self._is_inside(_text(pid, arguments[1]))
        return self._is_inside(_target(f"/proc/{pid}/fd/{ctypes.c_int(file).value}"))

    def _is_inside(self, path: str) -> bool:
        return path.startswith(self._folder)


_ALL = 0x40000000  # __WALL: threads, too


def _group_of(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 -- it is read at every call
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:
        return ""


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb") as memory:  # noqa: PTH123
        memory.seek(address)
        return memory.read(256).partition(b"\0")[0].decode(errors="replace")


if __name__ == "__main__":
    folder = Path(sys.argv[3])
    tracer = Tracer(folder, int(sys.argv[1]), sys.argv[2])
    code = tracer.run(sys.argv[4:])
    folder.with_name("calls").write_text(f"{tracer.count}")
    sys.exit(code & 0xFF)
