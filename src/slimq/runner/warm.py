"""The warm contexts of a node: kept for the next batch of the same client, jobtype and version,
and of nobody else.

A batch takes an idle context of its own kind. When all of these are at work it waits a moment for
one, and then starts another: so there are as many as the backlog needs, and none when nothing
comes for a while. Contexts together keep to a bound of memory; those that were idle longest go
first. One that did many jobs, is old, or grew, is not kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from slimq.core.limits import (
    ANSWER_KEPT_MAX,
    CONTEXT_AGE_S,
    CONTEXT_BYTES,
    CONTEXT_GROW_S,
    CONTEXT_HOLD_S,
    CONTEXT_JOBS_MAX,
    CONTEXTS_MAX,
)
from slimq.runner.context import Context

STARTS = ("cold", "warm", "failed")  # of runs: in a new context, in a kept one, in none
ENDS = ("recycled", "evicted", "unused")  # of contexts that were well


class Key(NamedTuple):
    """What contexts are kept by. `owner` is the client whose handler it is, or ``*``."""

    client: str
    jobtype: str
    owner: str
    version: int


class NotStarted(Exception):
    """Why no context could be started, and, when it is known, where in the function's files."""

    def __init__(self, why: str, file: str = "", line: int = 0, log: bytes = b"") -> None:
        super().__init__(why)
        self.why, self.file, self.line, self.log = why, file, line, log


class NotLaunched(NotStarted):
    """What runs the function, or the sandbox around it, ended before it came to the function, or
    was not even started: the machine is to blame."""


Start = Callable[[], Awaitable[Context]]


class WarmContexts:
    """All contexts of a node. Used on the event loop only. `memory_max` in bytes, of all of them;
    `idle_s` is how long one is kept without work."""

    def __init__(self, memory_max: int, idle_s: float) -> None:
        self._memory_max = memory_max
        self._idle_s = idle_s
        self._idle: dict[Context, Key] = {}  # idle longest first
        self._busy: dict[Context, Key] = {}
        self._starting: Counter[Key] = Counter()
        self._waiting: dict[Key, deque[asyncio.Future[Context]]] = {}
        self._broken: dict[Key, tuple[float, NotStarted]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self.counters: Counter[str] = Counter()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return len(self._busy) + self._starting.total()

    async def take(self, key: Key, start: Start) -> Context:
        """Return a context to work with; give it back afterwards, whatever happened. What
        `start` raises (NotStarted) is raised, for a while also without trying again."""
        context = self._warm(key) or await self._freed(key)
        if context is not None:
            self.counters["warm"] += 1
            return context
        self._close_other_versions(key)
        self._hold(key)
        self._make_room()
        self._starting[key] += 1
        try:
            context = await start()
        except NotStarted as error:
            self.counters["failed"] += 1
            self._broken[key] = (_now() + CONTEXT_HOLD_S, error)
            raise
        finally:
            self._starting[key] -= 1
            self._starting += Counter()  # without those at zero
        self.counters["cold"] += 1
        self._busy[context] = key
        return context

    def give_back(self, context: Context) -> None:
        """Take back a context, and keep it if it is worth it."""
        key = self._busy.pop(context)
        if context.is_dead:
            return
        if _is_worn(context):
            self.counters["recycled"] += 1
            self._close(context)
            return
        waiting = self._waiting.get(key)
        while waiting:
            future = waiting.popleft()
            if not future.done():
                self._busy[context] = key
                future.set_result(context)
                return
        self._idle[context] = key
        self._make_room(0)
        self._sweep_later()

    def forget(self, context: Context) -> None:
        """A context is dead: it is not idle any more. One at work is given back all the same."""
        self._idle.pop(context, None)

    async def close(self) -> None:
        """Close all contexts. None is at work."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for context in list(self._idle):
            self._close_idle(context)
        while self._closing:
            await asyncio.wait(self._closing)

    # --- which one ---------------------------------------------------------

    def _warm(self, key: Key) -> Context | None:
        """Return the idle context of a kind that was used last."""
        for context in reversed(self._idle):
            if self._idle[context] == key:
                del self._idle[context]
                self._busy[context] = key
                return context
        return None

    async def _freed(self, key: Key) -> Context | None:
        """Wait a moment for one of the contexts of a kind that are at work, if there are any."""
        if key not in self._busy.values():
            return None
        future: asyncio.Future[Context] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, deque())
        waiting.append(future)
        try:
            await asyncio.wait((future,), timeout=CONTEXT_GROW_S)
        except asyncio.CancelledError:
            if future.done():
                self.give_back(future.result())
            raise
        finally:
            with suppress(ValueError):
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(key, None)
        return future.result() if future.done() else None

    def _hold(self, key: Key) -> None:
        """Raise what the last start of a kind raised, if that is not long ago."""
        until, error = self._broken.get(key, (0.0, None))
        if error is not None and _now() < until:
            raise error.with_traceback(None)
        self._broken = {key: each for key, each in self._broken.items() if each[0] > _now()}

    # --- which one goes ----------------------------------------------------

    def _close_other_versions(self, key: Key) -> None:
        """The next batch starts on the new version: those of another one serve nobody."""
        for context, other in list(self._idle.items()):
            if other[:2] == key[:2] and other != key:
                self._close_idle(context)

    def _make_room(self, more: int = 1) -> None:
        """Close idle contexts until there is room for so many more."""
        while self._idle:
            count = len(self._idle) + self.busy + more
            taken = sum(max(c.taken_bytes, CONTEXT_BYTES) for c in (*self._idle, *self._busy))
            taken += (self._starting.total() + more) * CONTEXT_BYTES
            if count <= CONTEXTS_MAX and taken <= self._memory_max:
                break
            self.counters["evicted"] += 1
            self._close_idle(next(iter(self._idle)))

    def _sweep_later(self) -> None:
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(self._idle_s, self._sweep_idle)

    def _sweep_idle(self) -> None:
        """Close what was idle for too long; look again when the next one will have been."""
        self._sweep = None
        for context in list(self._idle):
            rest = context.used_at + self._idle_s - _now()
            if rest > 0:
                loop = asyncio.get_running_loop()
                self._sweep = loop.call_later(rest, self._sweep_idle)
                break
            self.counters["unused"] += 1
            self._close_idle(context)

    def _close_idle(self, context: Context) -> None:
        del self._idle[context]
        self._close(context)

    def _close(self, context: Context) -> None:
        task = asyncio.create_task(context.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _is_worn(context: Context) -> bool:
    """Whether a context did its share, or took half of the memory that it had left at first."""
    room = max(0, context.memory_bytes - context.first_bytes)
    return (
        context.jobs >= CONTEXT_JOBS_MAX
        or _now() - context.started_at >= CONTEXT_AGE_S
        or context.taken_bytes > context.first_bytes + room // 2
        or context.answer_bytes > ANSWER_KEPT_MAX
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
