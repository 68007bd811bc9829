"""One context of a function: a process that is kept, and gets batch after batch.

::

    starting --"Y"--> idle <--"D"-- at work
       |               |               |
       +---------------+---------------+--> killed, or ended by itself --> buried

What it prints is its log. It is killed when a batch or a job takes too long, when it prints too
much, when it breaks the protocol, and at the end of each death with all that it started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple, Protocol

from slimq.core.limits import KILL_GRACE_S, KILL_WAIT_S, LOG_MAX, OUTPUT_TAIL_MAX
from slimq.runner.cell import Cell
from slimq.runner.exchange import IN_JOBS, Answer, Exchange
from slimq.system.process import Processes

_READ_BYTES = 65_536
_DRAIN_READS = 16  # what a pipe can hold at most (1 MiB)
_LOOKS_PER_JOB = 8  # in the time that one job has: is it the same still?
_PROGRESS_MAX = 10_000  # jobs of a batch whose progress is kept


class Limits(Protocol):
    """What bounds the processes of one launch, and ends them."""

    def kill(self) -> None: ...

    def hit(self) -> tuple[str, ...]:
        """Name the limits that were hit: ``memory``, ``processes``."""

    def close(self) -> None: ...


class Launch(Protocol):
    """A command to be started once, with `env`, and `pass_fds` under their own numbers."""

    @property
    def argv(self) -> Sequence[str]: ...
    @property
    def env(self) -> dict[str, str]: ...
    @property
    def pass_fds(self) -> Sequence[int]: ...
    @property
    def limits(self) -> Limits: ...

    def close_fds(self) -> None: ...


class Launcher(Protocol):
    """A sandbox: turns a command into one that runs in a cell. Raises OSError when it cannot."""

    def launch(self, command: Sequence[str], cell: Cell) -> Launch: ...


class Death(NamedTuple):
    """Why a context ended: `code` is that of its exit, negative for a signal; `killed` says why
    the node killed it (timeout, job_timeout, output, protocol, closed), `limits` which of its
    bounds were hit."""

    code: int
    killed: str = ""
    limits: tuple[str, ...] = ()


class Ended(NamedTuple):
    """How a run ended; without `death` the context is ready for another."""

    answer: Answer
    log: bytes
    death: Death | None


class Context:
    """A process of at most `memory_bytes`, started by the constructor; raises OSError when it
    cannot be. One run at a time. `buried` is called when it has ended, at work or not."""

    def __init__(
        self,
        launch: Launch,
        memory_bytes: int,
        environment: dict[str, str],
        processes: Processes,
        buried: Callable[[Context], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._buried = buried
        self.memory_bytes = memory_bytes
        self._limits = launch.limits
        self._exchange = Exchange()
        try:
            self._child = processes.spawn(
                launch.argv[0].encode(),
                [word.encode() for word in launch.argv],
                {k.encode(): v.encode() for k, v in (launch.env | environment).items()},
                b"",
                self._exchange.theirs,
                launch.pass_fds,
            )
        except BaseException:
            self._exchange.close()
            self._limits.close()
            raise
        finally:
            launch.close_fds()
        self._exchange.hand_over()
        self._death: asyncio.Future[Death] = self._loop.create_future()
        self._heard: asyncio.Future[bytes] | None = None
        self._killed = ""
        self._is_at_work = False
        self._log = bytearray()
        self._printed = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._pipes = [self._child.stdout, self._child.stderr]
        for pipe in self._pipes:
            self._loop.add_reader(pipe, self._read, pipe)
        self._loop.add_reader(self._exchange.socket, self._hear)
        self._loop.add_reader(self._child.exited, self._bury)
        self.started_at = self.used_at = self._loop.time()
        self.jobs = self.answer_bytes = self.first_bytes = self.taken_bytes = 0
        self.progress: dict[int, tuple[int, int]] = {}
        self.has_begun = False  # with the function: what happened before is not its fault

    @property
    def is_dead(self) -> bool:
        return bool(self._killed) or self._death.done()

    @property
    def log(self) -> bytes:
        """The tail of what was printed since the last batch ended."""
        return bytes(self._log[-OUTPUT_TAIL_MAX:])

    async def started(self, timeout_s: float) -> bytes | Death:
        """Return what the context says first, or why it ended instead: ``Y...`` when it is
        ready, ``N...`` when it cannot be. Cancelling kills it."""
        with self._at_work():
            said = await self._next(timeout_s)
            if said[:1] == b"Y" and said[1:].isdigit():
                self.first_bytes = self.taken_bytes = int(said[1:])
            return said or self._death.result()

    async def run(self, payload: bytes, count: int, timeout_s: float, job_s: float) -> Ended:
        """Give the context a batch of `count` jobs; return when it is done, or the context
        dead. Cancelling kills it. `job_s` is the time for one job, 0: only the batch is timed."""
        with self._at_work():
            if not self.is_dead:
                self._exchange.give(payload)
            if job_s:
                self._look(job_s, -1, 0.0)
            said = await self._next(timeout_s)
            answer = self._exchange.answer()
            if said[:1] == b"D" and said[1:].isdigit() and answer.phase != IN_JOBS:
                self.taken_bytes = int(said[1:])
                self._drain()
            elif said:
                await self._end("protocol")
            self.jobs += count
            self.used_at = self._loop.time()
            self.answer_bytes = self._exchange.forget(len(payload))
            death = self._death.result() if self._death.done() else None
            ended = Ended(answer, self.log, death)
            del self._log[:]
            self._printed = 0
            self.progress.clear()
            return ended

    async def close(self) -> None:
        """Let an idle context end by itself, else kill it; return when nothing is left."""
        if not self._death.done():
            with suppress(OSError):
                self._exchange.socket.shutdown(socket.SHUT_WR)
            await asyncio.wait((self._death,), timeout=KILL_GRACE_S)
        await self._end("closed")

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """What is shared with the context outlives it until its last answer was read."""
        self._is_at_work = True
        try:
            yield
        finally:
            self._is_at_work = False
            if self._death.done():
                self._exchange.close()

    # --- what it says ------------------------------------------------------

    async def _next(self, timeout_s: float) -> bytes:
        """Return what the context says next; b'' when it died instead."""
        if self._death.done():
            return b""
        self._heard = self._loop.create_future()
        self._after("time", timeout_s, lambda: self._kill("timeout"))
        try:
            said = await self._heard
        except asyncio.CancelledError:
            await self._end("closed")
            raise
        finally:
            self._heard = None
            self._stop_timer("time")
            self._stop_timer("job")
        if self._killed:  # it spoke in the moment of its death
            await self._end(self._killed)
            return b""
        return said

    def _hear(self) -> None:
        said = self._exchange.hear()
        if said:
            self._take(said)
        elif said == b"":  # it ended, or closed its end: who ends by itself tells why by its code
            self._loop.remove_reader(self._exchange.socket)
            self._after("end", KILL_GRACE_S, lambda: self._kill("protocol"))

    def _take(self, said: bytes) -> None:
        if said[:1] == b"P":
            self._take_progress(said[1:])
        elif said == b"B":
            self.has_begun = True
        elif self._heard is not None and not self._heard.done():
            self._heard.set_result(said)
        else:
            self._kill("protocol")

    def _take_progress(self, said: bytes) -> None:
        with suppress(ValueError):
            index, done, total = map(int, said.split())
            if len(self.progress) < _PROGRESS_MAX:
                self.progress[index] = (done, total)

    def _read(self, pipe: int) -> bool:
        """Take what is in a pipe, once; return whether there may be more."""
        try:
            chunk = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_pipe(pipe)
            return False
        self._log += chunk
        self._printed += len(chunk)
        if len(self._log) > 2 * OUTPUT_TAIL_MAX:
            del self._log[:-OUTPUT_TAIL_MAX]
        if self._printed > LOG_MAX:
            self._kill("output")
        return True

    def _drain(self) -> None:
        for pipe in list(self._pipes):
            for _ in range(_DRAIN_READS):
                if not self._read(pipe):
                    break

    def _close_pipe(self, pipe: int) -> None:
        self._pipes.remove(pipe)
        self._loop.remove_reader(pipe)
        os.close(pipe)

    # --- time --------------------------------------------------------------

    def _after(self, name: str, delay_s: float, action: Callable[[], None]) -> None:
        self._stop_timer(name)
        self._timers[name] = self._loop.call_later(delay_s, action)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _look(self, job_s: float, seen: int, same_s: float) -> None:
        """See whether the same job is under way as at the last look, and for how long."""
        said = self._exchange.said()
        same_s = same_s + job_s / _LOOKS_PER_JOB if said == seen != -1 else 0.0
        if same_s >= job_s:
            self._kill("job_timeout")
        else:
            again = partial(self._look, job_s, said, same_s)
            self._after("job", job_s / _LOOKS_PER_JOB, again)

    # --- the end -----------------------------------------------------------

    async def _end(self, why: str) -> None:
        """Kill the context, if it is not dead, and wait for its burial."""
        self._kill(why)
        while not self._death.done():
            with suppress(asyncio.CancelledError):  # the first one is already on its way up
                await asyncio.wait((self._death,))

    def _kill(self, why: str) -> None:
        if self.is_dead:
            return
        self._killed = why
        self._limits.kill()
        self._child.signal_group(signal.SIGKILL)
        self._after("end", KILL_WAIT_S, self._give_up)

    def _give_up(self) -> None:
        """The kernel holds the killed process in I/O: it is buried when it comes back."""
        self._die(Death(-signal.SIGKILL, self._killed))

    def _bury(self) -> None:
        self._loop.remove_reader(self._child.exited)
        # The number of the group is ours until the reaping: nobody else is hit.
        self._limits.kill()
        self._child.signal_group(signal.SIGKILL)
        self._loop.remove_reader(self._exchange.socket)
        while said := self._exchange.hear():  # its last words may be behind others
            self._take(said)
        self._drain()
        for pipe in list(self._pipes):
            self._close_pipe(pipe)
        code = self._child.reap()
        os.close(self._child.exited)
        limits = self._limits.hit()
        self._limits.close()
        for name in list(self._timers):
            self._stop_timer(name)
        self._die(Death(code, self._killed, limits))

    def _die(self, death: Death) -> None:
        if self._death.done():
            return
        self._death.set_result(death)
        if not self._is_at_work:
            self._exchange.close()
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(b"")
        self._buried(self)
