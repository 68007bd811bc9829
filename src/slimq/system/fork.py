"""Processes that are copies of this one, behind a protocol: fork one, signal it, bury it.

A copy shares the memory of all code that was loaded before, and starts without loading it
again. It must be made while this process has one thread. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, NoReturn, Protocol, Self

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_PID_BYTES = 4
_LIBC = ctypes.CDLL(None, use_errno=True)


class Heard(NamedTuple):
    """What happened since the last time: whether someone wants the end (SIGTERM, SIGINT),
    and which processes said that they are ready."""

    end: bool
    ready: frozenset[int]


class Ended(NamedTuple):
    """A process that ended. Of one that a signal killed, `code` is its negative number."""

    pid: int
    code: int


class Parent:
    """The process that forked this one, as this one sees it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid = pid
        self._pipe = pipe

    def tell_ready(self) -> None:
        with suppress(OSError):  # the parent is gone, and this process is being killed
            os.write(self._pipe, os.getpid().to_bytes(_PID_BYTES, "little"))

    def tell_end(self) -> None:
        """Ask the parent for the end of all."""
        if os.getppid() == self._pid:
            os.kill(self._pid, signal.SIGTERM)


Body = Callable[[Parent], int]


class Forks(Protocol):
    def fork(self, body: Body) -> int:
        """Start a copy of this process that does `body` and ends with the code that it
        returns; return its pid. Whatever ends this process kills the copy. Raises OSError."""

    def send(self, pid: int, number: int) -> None:
        """Signal a process that is not buried yet."""

    def bury(self) -> list[Ended]:
        """Return the processes that ended, each once."""

    def wait(self, timeout_s: float | None) -> Heard:
        """Return when something happened, or after so long."""


class SystemForks:
    """Forks of this process (see `Forks`). While it is entered, SIGTERM and SIGINT are
    heard instead of acted on."""

    def __enter__(self) -> Self:
        self._signals, self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ready, self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._former = {number: signal.signal(number, _note) for number in _HEARD}
        self._former_wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._former_wakeup)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        for descriptor in (self._signals, self._wakeup, self._ready, self._pipe):
            os.close(descriptor)

    def fork(self, body: Body) -> int:
        parent = Parent(os.getpid(), self._pipe)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)  # until the copy acts on them
        try:
            pid = os.fork()
            if pid == 0:
                self._become(parent, body, blocked)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return pid

    def send(self, pid: int, number: int) -> None:
        os.kill(pid, number)

    def bury(self) -> list[Ended]:
        ended: list[Ended] = []
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended.append(Ended(found[0], os.waitstatus_to_exitcode(found[1])))
        return ended

    def wait(self, timeout_s: float | None) -> Heard:
        select.select([self._signals, self._ready], [], [], timeout_s)
        signals, pids = _read(self._signals), _read(self._ready)
        starts = range(0, len(pids), _PID_BYTES)
        return Heard(
            bool({signal.SIGTERM, signal.SIGINT} & set(signals)),
            frozenset(int.from_bytes(pids[at : at + _PID_BYTES], "little") for at in starts),
        )

    def _become(self, parent: Parent, body: Body, mask: set[int | signal.Signals]) -> NoReturn:
        """Be the copy: nothing of what the original does at its end may happen here."""
        code = 1
        try:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent._pid:
                os._exit(code)  # it was gone before that
            signal.set_wakeup_fd(-1)
            for number in _HEARD:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for descriptor in (self._signals, self._wakeup, self._ready):
                os.close(descriptor)
            code = body(parent)
        except BaseException:  # a bug: to be seen, and to end here
            traceback.print_exc()
        finally:
            os._exit(code)


def _note(number: int, frame: object) -> None:
    """The wakeup descriptor got the number already."""


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""
