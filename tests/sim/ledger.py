"""What the store must hold, kept beside it: told every call that the nodes make, and what was
answered, it says what follows, and finds what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from sim.world import Violation
from slimq.core import status as statuses
from slimq.core.job import Job
from slimq.core.lifecycle import DONE, FREE, Lease, done_dt, each_of
from slimq.core.limits import CRASHES_MAX
from slimq.store.base import Claim, Cursor, Finished, Freed, Ingested, NewJobs

Asked = Callable[[str], Any]  # a job's view in the store by its id, or None


class Row(msgspec.Struct):
    """A job as it must be. `dt` and `lock` mean what they mean in the store."""

    type: str
    dt: int
    due_at: int
    parent: str = ""
    lock: str = FREE
    attempt: int = 0
    crashes: int = 0
    status: int = 0


def require(holds: bool, what: str, *about: object) -> None:
    if not holds:
        raise Violation(f"{what}: {', '.join(map(str, about))}")


class Ledger:
    """`rows` are the jobs in the store, `gone` those that were purged, `aliases` ids that
    stand for others. `inserted` and `purged` count."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.running: dict[str, Row] = {}
        self.gone: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.cursors: dict[str, Cursor] = {}
        self.inserted = 0
        self.purged = 0
        self.fallbacks = 0
        self.dead: list[str] = []  # ids done by `free` since the last look

    def knows(self, id_: str) -> bool:
        return id_ in self.rows or id_ in self.gone or id_ in self.aliases

    # The store falls back.

    def snapshot(self) -> tuple[Any, ...]:
        rows = {id_: msgspec.structs.replace(row) for id_, row in self.rows.items()}
        return (
            rows,
            set(self.gone),
            dict(self.aliases),
            dict(self.cursors),
            self.inserted,
            self.purged,
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        self.rows, self.gone, self.aliases, self.cursors, self.inserted, self.purged = snapshot
        self.running = {id_: row for id_, row in self.rows.items() if _runs(row)}
        self.fallbacks += 1

    # What the engine does.

    def ingested(
        self,
        journal: str,
        expected: Cursor,
        moved: Cursor,
        jobs: Sequence[NewJobs],
        result: Ingested,
        asked: Asked,
    ) -> list[str]:
        """Return the ids that are accounted for now."""
        at = self.cursors.get(journal, Cursor())
        require(expected == at, "a cursor moved from where it was not", journal, expected, at)
        require(moved >= expected, "a cursor moved back", journal, expected, moved)
        self.cursors[journal] = moved
        before, total = self.inserted, 0
        accounted: list[str] = []
        for new in jobs:
            total += len(new.ids)
            if new.key and self._stands_for_another(new, asked):
                accounted += new.ids
                continue
            for id_ in new.ids:
                self._insert(id_, new)
            accounted += new.ids
        require(result.added == self.inserted - before, "ingest says another count", result.added)
        require(result.skipped == total - result.added, "ingest skipped others", result.skipped)
        return accounted

    def _stands_for_another(self, new: NewJobs, asked: Asked) -> bool:
        if any(id_ in self.rows for id_ in new.ids):
            return False
        views = [asked(id_) for id_ in new.ids]
        found = list(zip(new.ids, views, strict=True))
        if all(view is not None and view.id == id_ for id_, view in found):
            return False
        for id_, view in found:
            require(view is None or view.id != id_, "a request was ingested in part", new.ids)
            self.aliases[id_] = "" if view is None else view.id
        return True

    def _insert(self, id_: str, new: NewJobs) -> None:
        if id_ in self.rows:
            require(bool(new.parent) or self.fallbacks > 0, "a line was ingested twice", id_)
            return
        again = id_ in self.gone and not new.parent
        require(not again, "a line was ingested again after its job was purged", id_)
        self.gone.discard(id_)
        self.rows[id_] = Row(new.type, new.dt, new.dt, new.parent)
        self.inserted += 1

    def claimed(
        self, type_: str, lock: str, limit: int, claim: Claim, now: int, wants: dict[str, Any]
    ) -> None:
        require(len(claim.jobs) <= max(limit, 0), "claimed beyond the limit", type_, limit)
        if wants.get("ordered") and claim.jobs:
            others = [id_ for id_, row in self.running.items() if row.type == type_]
            require(not others, "an ordered type ran twice at a time", type_, others)
        for job in claim.jobs:
            self._claim(job, type_, lock, now, wants["lease_ms"])

    def _claim(self, job: Job, type_: str, lock: str, now: int, lease_ms: int) -> None:
        row = self.rows.get(job.id)
        require(row is not None, "claimed a job that is not there", job.id)
        assert row is not None, "it was just required"
        require(row.type == type_, "claimed as another type", job.id)
        require(row.lock == FREE, "claimed while another holds it", job.id, row.lock, row.dt, now)
        require(row.dt <= now, "claimed before it was due", job.id, row.dt, now)
        require(job.attempt == row.attempt + 1, "an attempt did not count up", job.id, job.attempt)
        require(job.crashes == row.crashes, "crashes were lost", job.id)
        row.lock, row.attempt, row.dt = lock, job.attempt, now + lease_ms
        self.running[job.id] = row

    def _held(self, lock: str, leases: Iterable[Lease]) -> dict[Lease, Row]:
        held = {}
        for lease in leases:
            row = self.rows.get(lease.id)
            if row is not None and (row.lock, row.attempt) == (lock, lease.attempt):
                held[lease] = row
        return held

    def renewed(
        self, lock: str, leases: Sequence[Lease], lost: set[str], now: int, lease_ms: int
    ) -> None:
        held = self._held(lock, leases)
        expected = {lease.id for lease in leases if lease not in held}
        require(lost == expected, "renew says that others are lost", lost ^ expected)
        for row in held.values():
            row.dt = max(row.dt, now + lease_ms)

    def released(self, lock: str, leases: Sequence[Lease], count: int) -> None:
        held = self._held(lock, leases)
        require(count == len(held), "released others", count, len(held))
        for lease, row in held.items():
            self._wait(lease.id, row, row.due_at)

    def finished(self, lock: str, finished: Sequence[Finished], stale: set[str]) -> list[Any]:
        """Return the moves that were made, with the ids of their jobs."""
        made = []
        expected: set[str] = set()
        for id_, move in each_of(move for batch in finished for move in batch.moves):
            row = self.rows.get(id_)
            if row is None or (row.lock, row.attempt) != (lock, move.attempt):
                expected.add(id_)
                continue
            made.append((id_, move))
            row.status, row.crashes = move.status, move.crashes
            if move.lock == DONE:
                self._done(id_, row, move.dt)
            else:
                self._wait(id_, row, move.dt)
        require(stale == expected, "finish took stale moves, or refused others", stale ^ expected)
        return made

    def leases(self, lock: str, found: set[Lease]) -> None:
        mine = {Lease(id_, row.attempt) for id_, row in self.running.items() if row.lock == lock}
        require(found == mine, "the store says other leases", found ^ mine)

    def freed(self, limit: int, lock: str | None, freed: Freed, now: int) -> None:
        over = [
            (id_, row)
            for id_, row in self.running.items()
            if (row.lock == lock if lock is not None else row.dt <= now)
        ]
        assert len(over) <= limit, "a simulation has not so many jobs"
        dead = sum(row.crashes + 1 >= CRASHES_MAX for _, row in over)
        expected = (len(over) - dead, dead)
        require((freed.again, freed.dead) == expected, "freed others", freed, expected)
        for id_, row in over:
            row.crashes += 1
            row.status = statuses.ABANDONED
            if row.crashes >= CRASHES_MAX:
                self._done(id_, row, done_dt(now))
                self.dead.append(id_)
            else:
                self._wait(id_, row, row.due_at)

    def purge(self, count: int, before: int, asked: Asked) -> None:
        """Jobs that were done before that time may be gone."""
        if not count:
            return
        over = done_dt(before)
        done = [id_ for id_, row in self.rows.items() if row.lock == DONE and row.dt < over]
        absent = [id_ for id_ in done if (view := asked(id_)) is None or view.id != id_]
        require(count == len(absent), "purged other than done jobs", count, len(absent))
        for id_ in absent:
            del self.rows[id_]
        self.gone.update(absent)
        self.purged += count

    # What people do.

    def cancelled(self, ids: Iterable[str], now: int) -> None:
        for id_ in ids:
            row = self.rows[self.aliases.get(id_, id_)]
            require(row.lock != DONE, "cancelled a done job", id_)
            row.status = statuses.CANCELLED
            self._done(self.aliases.get(id_, id_), row, done_dt(now))

    def retried(self, ids: Iterable[str], now: int) -> None:
        for id_ in dict.fromkeys(self.aliases.get(id_, id_) for id_ in ids):
            row = self.rows.get(id_)
            if row is None:
                continue
            if row.lock == DONE:
                row.crashes, row.due_at = 0, now
            elif row.lock != FREE or row.dt <= now:
                continue
            row.due_at = min(row.due_at, now)
            self._wait(id_, row, now)

    # Within.

    def _wait(self, id_: str, row: Row, dt: int) -> None:
        row.lock, row.dt = FREE, dt
        self.running.pop(id_, None)

    def _done(self, id_: str, row: Row, dt: int) -> None:
        row.lock, row.dt = DONE, dt
        self.running.pop(id_, None)


def _runs(row: Row) -> bool:
    return row.lock not in (FREE, DONE)
