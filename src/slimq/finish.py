"""Stage 8, finish: statuses move jobs; #J: lines become new jobs.

The children of a run are durable in the journal before the store learns how the run
ended. Their ids depend on nothing but the parent and their place, so that a parent that
runs again adds none twice. A run whose lease is gone adds nothing.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import msgspec

from slimq.core import status as statuses
from slimq.core.job import Result
from slimq.core.jobid import child_id
from slimq.core.jobtype import make_type
from slimq.core.lifecycle import FREE, Lease, settle_all
from slimq.core.limits import LEASE_MS
from slimq.errors import OperatorError
from slimq.journal.record import JobLine
from slimq.runner.flight import Flight
from slimq.store.base import EngineStore, Finished
from slimq.system.chance import Chance

T = TypeVar("T")


class Summary(NamedTuple):
    """What a finish did: outcomes counted, ids whose lease was lost, heads of the types
    that wait again."""

    outcomes: Counter[str]
    stale: set[str]
    heads: dict[str, int]
    children: int


class Finisher:
    """`add_children` journals jobs and returns when they are durable, or raises. Used by one
    thread at a time, which need not be the engine's when it has a store object of its own."""

    def __init__(
        self,
        store: EngineStore,
        sysid: str,
        chance: Chance,
        add_children: Callable[[list[JobLine]], None],
    ) -> None:
        self._store = store
        self._sysid = sysid
        self._chance = chance
        self._add_children = add_children

    def finish(self, flights: Sequence[Flight], now: int) -> Summary:
        """Record the results of runs that ended, at `now` by the store's clock. Raises
        StoreUnavailable: try again."""
        children = 0
        finished: list[Finished] = []
        for flight in flights:
            children += self._journal_children(flight)
            finished.append(self._finished(flight, now))
        stale = self._store.finish(self._sysid, finished) if finished else set()
        outcomes: Counter[str] = Counter()
        heads: dict[str, int] = {}
        for run in finished:
            for move in run.moves:
                count = len(move.ids) - (len(stale.intersection(move.ids)) if stale else 0)
                if count:
                    outcomes[statuses.outcome_of(move.status)] += count
                    if move.lock == FREE:
                        at = move.hold_until or move.dt
                        heads[run.type] = min(at, heads.get(run.type, at))
        return Summary(outcomes, stale, heads, children)

    def _finished(self, flight: Flight, now: int) -> Finished:
        batch, ran = flight.batch, flight.ran
        assert ran is not None, "a killed run is not finished"
        options, chance = batch.handler.options, self._chance.uniform
        moves = settle_all(batch.jobs, ran.results, options, now, chance)
        return Finished(batch.type, moves, ran.output)

    def _journal_children(self, flight: Flight) -> int:
        """Make the children of a run durable. When that cannot be had, their parents
        run again later."""
        batch, ran = flight.batch, flight.ran
        assert ran is not None, "a killed run is not finished"
        parents = [index for index, added in enumerate(ran.children) if added]
        if not parents:
            return 0
        leases = [Lease(batch.jobs[index].id, batch.jobs[index].attempt) for index in parents]
        lost = self._store.renew(self._sysid, leases, lease_ms=LEASE_MS)
        client = batch.type.partition("/")[0]
        lines = [
            _child(client, batch.jobs[index].id, ordinal, line.jobtype, line.data)
            for index in parents
            if batch.jobs[index].id not in lost
            for ordinal, line in enumerate(ran.children[index])
        ]
        if not lines:
            return 0
        ran.children = []  # once is enough, also when this finish is tried again
        try:
            self._add_children(lines)
        except OperatorError as error:
            for index in parents:
                ran.results[index] = Result(statuses.RETRY_NO_JOURNAL, error=error.detail)
            return 0
        return len(lines)


def at_once(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Work here and now: what an executor without threads would do."""
    done: Future[T] = Future()
    try:
        done.set_result(work(*arguments))
    except Exception as error:  # whoever asks for the result gets it
        done.set_exception(error)
    return done


def _child(client: str, parent: str, ordinal: int, jobtype: str, data: bytes) -> JobLine:
    line = JobLine(make_type(client, jobtype), id=child_id(parent, ordinal), parent=parent)
    try:
        return msgspec.structs.replace(line, data=data.decode())
    except UnicodeDecodeError:
        return msgspec.structs.replace(line, data=base64.b64encode(data).decode(), base64=True)
