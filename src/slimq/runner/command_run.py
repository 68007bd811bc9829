"""One run of a command, from its start to its burial, on the event loop.

::

    running --exit--> buried
       |--timeout--> SIGTERM --KILL_GRACE_S--> SIGKILL --exit--> buried
       |--stdout over its bound, or cancelled--> SIGKILL --exit--> buried

At the exit of the command its whole group is killed and its pipes are closed: what it
left in the background can neither hold up the run nor live on in its session.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from slimq.core.limits import KILL_GRACE_S, KILL_WAIT_S, OUTPUT_TAIL_MAX
from slimq.system.process import Child

_READ_BYTES = 65_536  # what a pipe holds by default
_DRAIN_READS = 16  # what a pipe can hold at most (1 MiB): nobody writes behind the exit


class Ended(NamedTuple):
    """How a command ended: `code` is its exit code, negative for a signal; `stderr` only
    the tail; at most one of `timed_out` and `overflowed` (stdout over its bound) is set."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    overflowed: bool = False


class CommandRun:
    """Watches `child` and buries it. Owns the descriptors of the child."""

    def __init__(self, child: Child, loop: asyncio.AbstractEventLoop, stdout_max: int) -> None:
        self._child = child
        self._loop = loop
        self._stdout_max = stdout_max
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._timed_out = False
        self._overflowed = False
        self._code: asyncio.Future[int] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._pipes: dict[int, Callable[[bytes], None]] = {
            child.stdout: self._take_stdout,
            child.stderr: self._take_stderr,
        }
        for fd in self._pipes:
            loop.add_reader(fd, self._read, fd)
        loop.add_reader(child.exited, self._bury)

    async def end(self, timeout_s: float) -> Ended:
        """Wait for the end of the command, and see to it. Cancelling kills it at once."""
        self._set_timer(timeout_s, self._time_out)
        try:
            await asyncio.wait((self._code,))
        finally:
            if not self._code.done():
                await self._kill_and_wait()
        return Ended(
            self._code.result(),
            bytes(self._stdout),
            bytes(self._stderr[-OUTPUT_TAIL_MAX:]),
            self._timed_out,
            self._overflowed,
        )

    async def _kill_and_wait(self) -> None:
        self._kill()
        while not self._code.done():
            with suppress(asyncio.CancelledError):  # the first one is already on its way up
                await asyncio.wait((self._code,))

    def _time_out(self) -> None:
        self._timed_out = True
        self._child.signal_group(signal.SIGTERM)
        self._set_timer(KILL_GRACE_S, self._kill)

    def _kill(self) -> None:
        self._child.signal_group(signal.SIGKILL)
        self._set_timer(KILL_WAIT_S, self._give_up)

    def _give_up(self) -> None:
        """The kernel holds the killed process in I/O: it is buried when it comes back."""
        self._code.set_result(-signal.SIGKILL)

    def _set_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)

    def _read(self, fd: int) -> bool:
        """Take what is in a pipe, once. Return whether there may be more."""
        try:
            chunk = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_pipe(fd)
            return False
        self._pipes[fd](chunk)
        return fd in self._pipes

    def _take_stdout(self, chunk: bytes) -> None:
        self._stdout += chunk
        if len(self._stdout) > self._stdout_max:
            del self._stdout[self._stdout_max :]
            self._overflowed = not self._timed_out
            self._close_pipe(self._child.stdout)
            self._kill()

    def _take_stderr(self, chunk: bytes) -> None:
        self._stderr += chunk
        if len(self._stderr) > 2 * OUTPUT_TAIL_MAX:
            del self._stderr[:-OUTPUT_TAIL_MAX]

    def _close_pipe(self, fd: int) -> None:
        del self._pipes[fd]
        self._loop.remove_reader(fd)
        os.close(fd)

    def _bury(self) -> None:
        self._loop.remove_reader(self._child.exited)
        # The number of the group is ours until the reaping: nobody else is hit.
        self._child.signal_group(signal.SIGKILL)
        for fd in list(self._pipes):
            for _ in range(_DRAIN_READS):
                if not self._read(fd):
                    break
        for fd in list(self._pipes):
            self._close_pipe(fd)
        code = self._child.reap()
        os.close(self._child.exited)
        if self._timer is not None:
            self._timer.cancel()
        if not self._code.done():
            self._code.set_result(code)
