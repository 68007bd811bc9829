"""Limits: how many batches of a type, or of a handler, may run at a time.

A limit holds for all nodes together. The store has as many permits of it as batches may
run, and a node runs no more batches than it has permits. It asks when work waits for one,
keeps what it has while there is more work, and gives back what it has no work for. So a
limit costs a question when work comes and one when it is over, and none in between.

Pure policy, beside the scheduler: says what to ask, and is told what was answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from slimq.core.priority import PriorityQueue
from slimq.store.base import Ask

UNLIMITED = 1 << 30
ASK_AGAIN_MS = 200  # when other nodes hold all permits
ASKS_MAX = 1_000  # of one question: it is one transaction


class Limit:
    """`most` batches may run at a time (None: any number): on all nodes, or if not `shared`
    on this one. `kept` is what the store counts as this node's: its permits, or, when it got
    fewer than run, what runs. `line` are the types that wait for it, first come, first served;
    `ready` is how many types could start if there were a slot. Batches run in the slots of
    `lang`."""

    __slots__ = ("kept", "lang", "line", "most", "name", "permits", "ready", "running", "shared")

    def __init__(self, name: str) -> None:
        self.name, self.lang = name, ""
        self.most: int | None = None
        self.shared = True
        self.permits = self.running = self.ready = self.kept = 0
        self.line: dict[str, None] = {}

    @property
    def room(self) -> int:
        """How many batches more may start here."""
        if self.most is None:
            return UNLIMITED
        return (self.permits if self.shared else self.most) - self.running

    def wanted(self, slots: int) -> int:
        """Return how many permits this node has use for, with so many free slots."""
        if self.most is None or not self.shared:
            return 0
        if self.line and self.room <= 0:
            return min(self.most, self.running + slots)
        if self.line or self.ready:
            return min(self.most, self.permits)
        return min(self.permits, self.running)

    @property
    def counted(self) -> int:
        """How many batches run that the store has to know of."""
        return self.running if self.shared and self.most is not None else 0


class Question(NamedTuple):
    """What to ask a store for; `limits` are those asked about, in the same order."""

    limits: list[Limit]
    asks: list[Ask]


class Permits:
    """The permits of this node."""

    def __init__(self) -> None:
        self._changed: dict[Limit, None] = {}
        self._slotless: dict[str, dict[Limit, None]] = {}  # by lang: could start, had it a slot
        self._refused: PriorityQueue[Limit] = PriorityQueue()
        self._held: dict[str, Limit] = {}

    def limit(self, name: str) -> Limit:
        """Return the limit of this name, which may still have permits from before."""
        return self._held.get(name) or Limit(name)

    def changed(self, limit: Limit) -> None:
        """Say that something about a limit changed. What needs no permits needs no question."""
        if (limit.shared and limit.most is not None) or limit.kept:
            self._changed[limit] = None

    def question(self, now: int, slots: Mapping[str, int]) -> Question:
        """Return what to ask now, with so many free slots by lang."""
        for limit in self._refused.pop_until((now,)):
            self._changed[limit] = None
        for lang in [lang for lang in self._slotless if slots.get(lang, 0) > 0]:
            self._changed.update(self._slotless.pop(lang))
        question = Question([], [])
        for limit in list(islice(self._changed, ASKS_MAX)):
            wanted = limit.wanted(slots.get(limit.lang, 0))
            keeps_more = limit.kept > max(wanted, limit.counted)
            is_refused = wanted > limit.permits and limit in self._refused
            if is_refused or (wanted == limit.permits and not keeps_more):
                self._settled(limit)
            else:
                question.limits.append(limit)
                question.asks.append(_ask(limit, wanted))
        return question

    def held(self) -> Question:
        """Return the question that keeps all that this node has."""
        limits = list(self._held.values())
        return Question(limits, [_ask(each, each.wanted(0)) for each in limits])

    def answered(self, question: Question, permits: Sequence[int], now: int) -> None:
        """Take over what the store permitted."""
        for limit, ask, count in zip(question.limits, question.asks, permits, strict=True):
            limit.permits, limit.kept = count, max(count, ask.running)
            if limit.kept:
                self._held[limit.name] = limit
            else:
                self._held.pop(limit.name, None)
            if ask.wanted > count:
                self._changed.pop(limit, None)
                self._refused.push(limit, (now + ASK_AGAIN_MS,))

    def next_at(self) -> int | None:
        """Return when to ask again, if nothing happens before."""
        least = self._refused.least()
        return None if least is None else int(least[0])

    def _settled(self, limit: Limit) -> None:
        """There is nothing to ask about a limit until it changes, or a slot is free."""
        del self._changed[limit]
        if limit.line and limit.room <= 0 and limit not in self._refused:
            self._slotless.setdefault(limit.lang, {})[limit] = None


def _ask(limit: Limit, wanted: int) -> Ask:
    return Ask(limit.name, limit.most or 0, limit.counted, wanted)
