"""Stage 5, schedule: choose the next type, fairly.

Pure policy: it is told what waits, what runs and what people set, and says what to claim
next. A choice costs O(log n) in the clients that have something ready; types that are
idle, paused, full or without a handler cost nothing. A type with waiting work is in one place:

    held      no handler serves it, or it is paused
    later     nothing of it is due yet: among the timers
    in line   as many of its batches run as may, or of its handler's: first come, first
              served, when one ends or the store permits more (see `permits`)
    ready     in its client's queue, and its client in the queue of the lang

Fair by client first: of the clients with something ready, next is the one with the
fewest running batches, then the one that was given the fewest jobs so far (start-time
fair queueing: who comes back after a rest starts level with the others). Inside a client
the same by jobtype, where a weight of 3 gives three times the jobs. No client gets more
than three quarters of a lang's slots, so that a slow one cannot shut the others out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from slimq.core.handler import Handler
from slimq.core.jobtype import EVERY_CLIENT, split_type
from slimq.core.priority import PriorityQueue
from slimq.permits import Limit, Permits, Question
from slimq.store.base import Control, Policy


class Pick(NamedTuple):
    """Claim up to `batches` times `batch_size` jobs of `type` for `handler`."""

    type: str
    handler: Handler
    batches: int
    batch_size: int


class Scheduler:
    """`slots` says for each lang how many batches this node runs at a time."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self._pools = {lang: _Pool(count) for lang, count in slots.items()}
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._policies: dict[tuple[str, str], Policy] = {}
        self._types: dict[str, _Type] = {}
        self._timers: PriorityQueue[str] = PriorityQueue()
        self._permits = Permits()
        self._handler_limits: dict[tuple[str, str], Limit] = {}

    def set_control(self, control: Control, now: int) -> None:
        """Take over what people set. Backlogs follow a new handler at once."""
        self._handlers = {(h.client, h.jobtype): h for h in control.handlers}
        self._policies = {(p.client, p.jobtype): p for p in control.policies}
        for state in list(self._types.values()):
            self._lift(state)
            self._set(state)
            self._place(state, now)

    def due(self, type_: str, at: int, now: int) -> None:
        """Say that a type has waiting work that is due at `at`."""
        state = self._types.get(type_)
        if state is None:
            client, jobtype = split_type(type_)
            state = self._types[type_] = _Type(type_, client, jobtype)
            self._set(state)
        elif state.next_at is not None and state.next_at <= at:
            return
        self._lift(state)
        state.next_at = at
        self._place(state, now)

    def choose(self, now: int) -> Pick | None:
        """Return what to claim next, or None when nothing can start now. Report back
        with `claimed` before the next choice."""
        for type_ in self._timers.pop_until((now,)):
            self._place(self._types[type_], now)
        for pool in self._pools.values():
            while (state := pool.take()) is not None:
                self._lift(state)
                batches = self._room(state, pool)
                if batches > 0:
                    settings = state.settings
                    assert settings.handler is not None, "a type without handler is not ready"
                    return Pick(state.type, settings.handler, batches, settings.batch_size)
                self._place(state, now)  # a limit was reached meanwhile
        return None

    def claimed(self, pick: Pick, batches: int, jobs: int, next_at: int | None, now: int) -> None:
        """Say what the claim of a pick brought, and when the type is worth asking again."""
        state = self._types[pick.type]
        pool = self._pools[pick.handler.lang]
        self._count(state, pick.handler, batches)
        pool.charge(state, jobs)
        state.next_at = next_at
        for limit in self._limits(state, pick.handler):
            self._admit(limit, pick.batches - batches, now)  # before: as in `ended`
        self._place(state, now)

    def ended(self, type_: str, handler: Handler, now: int) -> None:
        """Say that a batch of a type, started with `handler`, ended."""
        state = self._types[type_]
        self._count(state, handler, -1)
        self._lift(state)
        for limit in self._limits(state, handler):
            self._admit(limit, 1, now)  # before: of equals the first is taken
        self._place(state, now)

    def next_at(self) -> int | None:
        """Return when the next waiting work becomes due, if nothing happens before."""
        least, again_at = self._timers.least(), self._permits.next_at()
        if least is None:
            return again_at
        return int(least[0]) if again_at is None else min(int(least[0]), again_at)

    def question(self, now: int) -> Question:
        """Return what to ask the store before the next choice: see `permits`."""
        slots = {lang: pool.free for lang, pool in self._pools.items()}
        return self._permits.question(now, slots)

    def held(self) -> Question:
        """Return what to ask the store so that permits last."""
        return self._permits.held()

    def answered(self, question: Question, permits: Sequence[int], now: int) -> None:
        """Say what the store permitted."""
        self._permits.answered(question, permits, now)
        for limit in question.limits:
            self._admit(limit, limit.room, now)

    def oldest_at(self) -> int | None:
        """Return when the work that waits longest became due, or the first will. Looks at
        every type with waiting work."""
        return min((s.next_at for s in self._types.values() if s.next_at is not None), default=None)

    def without_handler(self) -> list[str]:
        """Return the types whose waiting work has no handler."""
        waiting = (state for state in self._types.values() if state.next_at is not None)
        return [state.type for state in waiting if state.settings.handler is None]

    # --- where a type is ---------------------------------------------------

    def _place(self, state: _Type, now: int) -> None:
        """Put a type that is nowhere into the one place where it belongs."""
        handler = state.settings.handler
        if state.next_at is None:
            if state.running == 0:
                self._types.pop(state.type, None)
        elif handler is None or state.settings.paused:
            pass  # held: set_control will place it again
        elif state.next_at > now:
            self._timers.push(state.type, (state.next_at,))
        else:
            limits = self._limits(state, handler)
            full = next((limit for limit in limits if limit.room <= 0), None)
            if full is not None:
                full.line[state.type] = None
                self._permits.changed(full)
            else:
                self._pools[handler.lang].push(state)
                self._ready(state, limits, 1)

    def _lift(self, state: _Type) -> None:
        """Take a type out of wherever it is."""
        self._timers.discard(state.type)
        handler = state.settings.handler
        if handler is None:
            return
        limits = self._limits(state, handler)
        for limit in limits:
            limit.line.pop(state.type, None)
        self._pools[handler.lang].discard(state)
        if state.ready:
            self._ready(state, limits, -1)

    def _ready(self, state: _Type, limits: Iterable[Limit], change: int) -> None:
        state.ready = change > 0
        for limit in limits:
            limit.ready += change
            self._permits.changed(limit)

    def _admit(self, limit: Limit, batches: int, now: int) -> None:
        """Let the first in line for a limit use the room of so many batches."""
        for type_ in list(islice(limit.line, max(0, min(batches, limit.room)))):
            del limit.line[type_]
            self._place(self._types[type_], now)

    # --- how much may start ------------------------------------------------

    def _room(self, state: _Type, pool: _Pool) -> int:
        """Return how many batches of a type may start: all that is free when its client
        is the only one that waits, else its share."""
        handler = state.settings.handler
        assert handler is not None, "a type without handler is not ready"
        share = max(1, pool.room(state.client) // (1 + pool.waiting))
        return min(share, *(limit.room for limit in self._limits(state, handler)))

    def _count(self, state: _Type, handler: Handler, batches: int) -> None:
        state.running += batches
        for limit in self._limits(state, handler):
            limit.running += batches
            self._permits.changed(limit)
        self._pools[handler.lang].count(state.client, batches)

    def _limits(self, state: _Type, handler: Handler) -> list[Limit]:
        limit = self._handler_limits[handler.client, handler.jobtype]
        return [limit] if state.limit is None else [state.limit, limit]

    # --- what people set ---------------------------------------------------

    def _set(self, state: _Type) -> None:
        """Let a type follow what holds for it now."""
        settings = state.settings = self._settings(state.client, state.jobtype)
        if settings.handler is not None:
            self._set_limit(settings.handler)
        if state.limit is None and settings.concurrency is not None:
            state.limit = self._permits.limit(state.type)
            state.limit.running = state.running
        if state.limit is not None:
            state.limit.most, state.limit.shared = settings.concurrency, not settings.ordered
            state.limit.lang = settings.handler.lang if settings.handler else ""
            self._permits.changed(state.limit)

    def _set_limit(self, handler: Handler) -> None:
        key = handler.client, handler.jobtype
        limit = self._handler_limits.get(key)
        if limit is None:  # its name is that of no type
            limit = self._handler_limits[key] = Limit(f"handler {handler.client}/{handler.jobtype}")
        limit.most, limit.lang = handler.options.concurrency, handler.lang
        self._permits.changed(limit)

    def _settings(self, client: str, jobtype: str) -> _Settings:
        """Return what holds for a type: its client's own handler and policy go before
        those for every client, and a policy before the handler's options."""
        handler = self._handlers.get((client, jobtype)) or self._handlers.get(
            (EVERY_CLIENT, jobtype)
        )
        if handler is not None and handler.lang not in self._pools:
            handler = None
        keys = ((client, jobtype), (EVERY_CLIENT, jobtype))
        policies = [self._policies[key] for key in keys if key in self._policies]
        return _merge(handler, policies)


class _Settings(NamedTuple):
    handler: Handler | None
    paused: bool
    weight: int
    concurrency: int | None  # batches of the type at a time
    batch_size: int
    ordered: bool  # the store sees to it that one job of the type runs on all nodes


def _merge(handler: Handler | None, policies: Sequence[Policy]) -> _Settings:
    def first(values: Iterable[int | None], default: int) -> int:
        return next((value for value in values if value is not None), default)

    options = handler.options if handler else None
    ordered = options is not None and options.ordered
    concurrency = next((p.concurrency for p in policies if p.concurrency is not None), None)
    batch_size = first((p.batch_size for p in policies), options.batch_size if options else 1)
    return _Settings(
        handler,
        bool(first((p.paused for p in policies), False)),
        first((p.weight for p in policies), 1),
        1 if ordered else concurrency,
        1 if ordered else batch_size,
        ordered,
    )


class _Type:
    """A type with waiting work or running batches."""

    __slots__ = (
        *("client", "jobtype", "limit", "next_at", "ready", "running", "settings", "type"),
        "work",
    )

    def __init__(self, type_: str, client: str, jobtype: str) -> None:
        self.type, self.client, self.jobtype = type_, client, jobtype
        self.settings = _merge(None, [])
        self.limit: Limit | None = None
        self.ready = False
        self.next_at: int | None = None
        self.running = 0
        self.work = 0.0  # jobs given, divided by weight


class _Client:
    """A client in one pool: its ready types, fairest first."""

    __slots__ = ("floor", "running", "types", "work")

    def __init__(self, work: float) -> None:
        self.running = 0
        self.work = work  # jobs given
        self.floor = 0.0  # work of the type that was served last: where newcomers start
        self.types: PriorityQueue[_Type] = PriorityQueue()


class _Pool:
    """The slots of one lang, and the clients that want them, fairest first."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.client_slots = -(-slots * 3 // 4)
        self.running = 0
        self._floor = 0.0  # work of the client that was served last: where newcomers start
        self._clients: dict[str, _Client] = {}
        self._ready: PriorityQueue[str] = PriorityQueue()
        self._forget_at = 1024

    @property
    def waiting(self) -> int:
        """How many clients have something ready, and may have more slots."""
        return len(self._ready)

    @property
    def free(self) -> int:
        return self.slots - self.running

    def room(self, client: str) -> int:
        running = self._clients[client].running
        return min(self.free, self.client_slots - running)

    def push(self, state: _Type) -> None:
        if len(self._clients) >= self._forget_at:
            self._forget()
        client = self._clients.get(state.client)
        if client is None:
            client = self._clients[state.client] = _Client(self._floor)
        if not client.types:
            client.work = max(client.work, self._floor)
        state.work = max(state.work, client.floor)
        client.types.push(state, (state.work,))
        self._rank(state.client, client)

    def discard(self, state: _Type) -> None:
        client = self._clients.get(state.client)
        if client is not None:
            client.types.discard(state)
            self._rank(state.client, client)

    def take(self) -> _Type | None:
        """Take out the type whose turn it is."""
        if self.running >= self.slots:
            return None
        name = self._ready.pop()
        if name is None:
            return None
        client = self._clients[name]
        state = client.types.pop()
        assert state is not None, "a client in the queue has a ready type"
        self._floor, client.floor = client.work, state.work
        self._rank(name, client)
        return state

    def charge(self, state: _Type, jobs: int) -> None:
        client = self._clients[state.client]
        client.work += jobs
        state.work += jobs / state.settings.weight
        self._rank(state.client, client)

    def count(self, name: str, batches: int) -> None:
        client = self._clients[name]
        self.running += batches
        client.running += batches
        self._rank(name, client)

    def _rank(self, name: str, client: _Client) -> None:
        """Put a client where it belongs in the queue."""
        if client.types and client.running < self.client_slots:
            self._ready.push(name, (client.running, client.work))
        else:
            self._ready.discard(name)

    def _forget(self) -> None:
        """Forget clients that would start level with the others if they came now."""
        self._clients = {
            name: client
            for name, client in self._clients.items()
            if client.types or client.running or client.work > self._floor
        }
        self._forget_at = max(1024, 2 * len(self._clients))
