"""Virtual time, who acts next, chance, and the trace: the same seed gives the same story.

Every thread of every process is an actor: something that takes a turn and says when it wants
the next one. One actor runs at a time. Where a real thread would wait (a slow sync, a store
that does not answer) the others go on within `wait`, and time with them.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from random import Random

START_MS = 1_795_000_000_000
LAST_EVENTS = 60
TURNS_MAX = 20_000  # in one millisecond: more is a busy loop
PAUSE_MS = 4_000  # who waits longer than this may lose what he holds


class Crashed(BaseException):
    """The process that was running is dead. Not an Exception: nothing may catch it."""


class Violation(Exception):
    """A promise is broken."""


class Process:
    """What dies at once, with all of its threads. `crash_in` counts calls to disk and store
    down to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.crash_in = 0
        self.hit_at = -1  # when a fault last touched it
        self.power_cut_next = False  # its crash is one of the machine
        self.lost_power = False
        self.stopped_until = 0
        self.end: Callable[[], None] = lambda: None


class Actor:
    """`turn` returns after how many ms it wants the next one (None: when it is woken)."""

    __slots__ = ("busy", "due", "name", "process", "rung", "turn")

    def __init__(self, name: str, turn: Callable[[], int | None], process: Process | None) -> None:
        self.name = name
        self.turn = turn
        self.process = process
        self.busy = False
        self.rung = False
        self.due: int | None = None


class World:
    def __init__(self, seed: int) -> None:
        self.now = 0  # ms since the start
        self.chance = Random(seed)
        self.faults: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=LAST_EVENTS)
        self.broken: Violation | None = None  # found where an exception would be caught
        self._hash = blake2b(digest_size=8)
        self._agenda: list[tuple[int, int, Actor]] = []
        self._serial = self._turns = 0
        self._stack: list[Actor] = []

    # The trace.

    def note(self, event: str) -> None:
        line = f"{self.now} {event}"
        self.last.append(line)
        self._hash.update(line.encode())

    def fault(self, kind: str, about: str = "") -> None:
        self.faults[kind] += 1
        self.note(f"fault {kind} {about}")

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    # Who acts.

    def at(self, after_ms: int, name: str, act: Callable[[], None]) -> None:
        """Let something happen once."""
        self.wake(Actor(name, act, None), after_ms)

    def wake(self, actor: Actor, after_ms: int = 0) -> None:
        """Let an actor take its next turn by then at the latest."""
        if actor.process is not None and not actor.process.alive:
            return
        if actor.busy:
            actor.rung = True
            return
        due = self.now + after_ms
        if actor.due is None or due < actor.due:
            actor.due = due
            self._serial += 1
            heapq.heappush(self._agenda, (due, self._serial, actor))

    def run(self, end: int, until: Callable[[], bool] | None = None) -> bool:
        """Let everybody act up to `end`, or until that holds; return whether it does."""
        while until is None or not until():
            if not self._agenda or self._agenda[0][0] > end:
                self.now = max(self.now, end)
                return until is not None and until()
            due, _, actor = heapq.heappop(self._agenda)
            if due != actor.due:
                continue  # it was woken earlier, and has been here
            self._turns = self._turns + 1 if due <= self.now else 0
            if self._turns > TURNS_MAX:
                raise Violation(f"{actor.name} and others are busy, and nothing comes of it")
            self.now = max(self.now, due)
            actor.due = None
            self._take_turn(actor)
        return True

    def _take_turn(self, actor: Actor) -> None:
        process = actor.process
        if process is not None:
            if not process.alive:
                return
            if process.stopped_until > self.now:
                self.wake(actor, process.stopped_until - self.now)
                return
        actor.busy, actor.rung = True, False
        self._stack.append(actor)
        wait: int | None = None
        try:
            wait = actor.turn()
        except Crashed:
            assert not (process and process.alive), "who crashes is dead"
        finally:
            self._stack.pop()
            actor.busy = False
        if self.broken is not None:
            raise self.broken
        if actor.rung:
            wait = 0
        if wait is not None:
            self.wake(actor, wait)

    def wait(self, ms: int, until: Callable[[], bool] | None = None) -> bool:
        """The actor that runs waits for so long, or until that holds. Dies if its process does."""
        actor = self._stack[-1] if self._stack else None
        since = self.now
        if ms > PAUSE_MS and actor is not None and actor.process is not None:
            actor.process.hit_at = max(actor.process.hit_at, since + ms)
        over = self.run(since + ms, until)
        if actor is not None and actor.process is not None:
            if self.now - since > PAUSE_MS:
                actor.process.hit_at = max(actor.process.hit_at, self.now)
                self.fault("pause", f"{actor.name} {self.now - since}")
            self.check_alive(actor.process)
        return over

    def check_alive(self, process: Process | None) -> None:
        if process is not None and not process.alive:
            raise Crashed

    def kill(self, process: Process) -> None:
        """End a process. Who is inside of it finds out when he goes on."""
        if process.alive:
            process.alive = False
            process.end()
