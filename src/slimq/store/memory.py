"""The memory store: the machine of `core/lifecycle.py` over a dict.

It is the oracle that other stores are compared with, and the double in tests: right
rather than fast, and gone with its process. One lock makes it safe for several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from slimq import __version__
from slimq.core import lifecycle
from slimq.core.handler import Handler
from slimq.core.job import Job
from slimq.core.lifecycle import DONE, FREE, Lease, Move
from slimq.core.limits import LEASE_MS
from slimq.store.base import (
    ABANDONED_TEXT,
    NODES_KEPT_MS,
    ORDERED_POLL_MS,
    Ask,
    Claim,
    Control,
    Cursor,
    CursorMoved,
    DueType,
    Finished,
    Freed,
    Ingested,
    JobFilter,
    JobView,
    KeyUse,
    Load,
    NewJobs,
    Node,
    Policy,
    Run,
    StoreFacts,
    Totals,
    TypeView,
)
from slimq.store.counts import OK, RUNNING
from slimq.store.memory_jobs import Jobs, Row, is_of, that_fit, type_view, view
from slimq.store.memory_keys import Keys
from slimq.store.memory_settings import Settings
from slimq.system.clock import Clock

P = ParamSpec("P")
R = TypeVar("R")


def _alone(
    method: Callable[Concatenate[MemoryStore, P], R],
) -> Callable[Concatenate[MemoryStore, P], R]:
    """Let one thread at a time into a method."""

    @wraps(method)
    def call(self: MemoryStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._one_at_a_time:
            return method(self, *args, **kwargs)

    return call


class MemoryStore:
    """Keeps the contract of `store/base.py`. `Totals.bytes` is of the jobs' data alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.wall_ms() - clock.boot_ms()
        self._latest = 0
        self._one_at_a_time = threading.RLock()
        self._jobs = Jobs()
        self._cursors: dict[str, Cursor] = {}
        self._keys = Keys()
        self._nodes: dict[str, Node] = {}
        self._permits: dict[tuple[str, str], tuple[int, int]] = {}  # (limit, lock): count, dt
        self._settings = Settings()
        self._purged = 0

    @_alone
    def now(self) -> int:
        self._latest = max(self._latest, self._offset + self._clock.boot_ms())
        return self._latest

    @_alone
    def copy(self) -> MemoryStore:
        """Return a store that goes on from here by itself: what a backup would bring back."""
        shared = {id(self._clock): self._clock, id(self._one_at_a_time): threading.RLock()}
        made = MemoryStore(self._clock)
        made.__dict__.update(deepcopy(self.__dict__, shared))
        return made

    def close(self) -> None:
        """Nothing is held."""

    def check(self) -> None:
        """It can always be used."""

    def facts(self) -> StoreFacts:
        return StoreFacts(kind="memory", version=__version__)

    # The engine.

    @_alone
    def register(self, node: Node) -> bool:
        other = self._nodes.get(node.sysid)
        if other is not None and other.seen_at > self.now() - LEASE_MS:
            return False
        self.beat(node)
        return True

    @_alone
    def beat(self, node: Node) -> None:
        self._nodes[node.sysid] = msgspec.structs.replace(node, seen_at=self.now())

    @_alone
    def leave(self, sysid: str) -> None:
        self._nodes.pop(sysid, None)
        self._forget_permits(sysid)

    def _forget_permits(self, lock: str) -> None:
        self._permits = {key: held for key, held in self._permits.items() if key[1] != lock}

    @_alone
    def cursor(self, journal: str) -> Cursor:
        return self._cursors.get(journal, Cursor())

    @_alone
    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        found = self.cursor(journal)
        if found != expected:
            raise CursorMoved(f"journal {journal} is ingested up to {found}, not {expected}")
        self._cursors[journal] = moved
        sorted_ = self._keys.sort(jobs, self.now())
        ingested = Ingested(0, 0, 0, {})
        for new in sorted_.inserts:
            added = self._jobs.insert(new)
            ingested.added += added
            if added:
                ingested.heads[new.type] = min(new.dt, ingested.heads.get(new.type, new.dt))
        ingested.replays = sum(len(new.ids) for new, _ in sorted_.replays)
        ingested.skipped = sum(len(new.ids) for new in jobs) - ingested.added
        return ingested

    def barrier(self) -> bool:
        return True

    @_alone
    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        found = []
        for name, type_ in self._jobs.types.items():
            if name > after and type_.next_at is not None:
                found.append(DueType(name, max(type_.next_at, type_.hold_until)))
        return sorted(due for due in found if due.next_at <= until)[:limit]

    @_alone
    def claim(
        self,
        type: str,
        lock: str,
        limit: int,
        *,
        lease_ms: int,
        bytes_max: int,
        full: int = 0,
        window_ms: int = 0,
        ordered: bool = False,
    ) -> Claim:
        now, found = self.now(), self._jobs.types.get(type)
        if found is None or limit < 1:
            return Claim([], None)
        if ordered:
            limit = 1
            poll_at = now + ORDERED_POLL_MS if found.counts[RUNNING] else 0
            if max(found.hold_until, poll_at) > now:
                return Claim([], max(found.hold_until, poll_at))
        ready = self._jobs.ready(type, now)[:limit]
        rows = that_fit(ready, bytes_max)
        if rows and len(rows) == len(ready) < min(full, limit):
            over_at = rows[0].dt + window_ms
            if over_at > now:
                return Claim([], over_at)
        return Claim([self._claim(row, lock, now, lease_ms) for row in rows], found.next_at)

    def _claim(self, row: Row, lock: str, now: int, lease_ms: int) -> Job:
        with self._jobs.moving(row):
            lifecycle.claim(row, lock, now, lease_ms)
        row.started_at = now
        return Job(row.id, row.attempt, row.failures, row.crashes, row.due_at, row.data, row.trace)

    @_alone
    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        lost = set(leases)
        for row in self._held(lock, leases):
            lifecycle.renew(row, self.now(), lease_ms)
            lost.remove(Lease(row.id, row.attempt))
        return {lease.id for lease in lost}

    @_alone
    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        stale = set()
        for batch in finished:
            for id_, move in lifecycle.each_of(batch.moves):
                row = self._jobs.rows.get(id_)
                if (
                    row is None
                    or row.type != batch.type
                    or not lifecycle.holds(row, lock, move.attempt)
                ):
                    stale.add(id_)
                else:
                    self._finish(row, lock, batch, move)
        return stale

    def _finish(self, row: Row, lock: str, batch: Finished, move: Move) -> None:
        with self._jobs.moving(row):
            lifecycle.finish(row, move)
        ended_at = lifecycle.finished_at(row.dt) if row.lock == DONE else self.now()
        run = Run(
            attempt=move.attempt,
            status=move.status,
            node=lock,
            started_at=row.started_at,
            ended_at=ended_at,
            result=move.result,
            error=move.error,
            output=batch.output,
        )
        row.ended(run)
        self._jobs.hold(row.type, move.hold_until)

    @_alone
    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        held = list(self._held(lock, leases))
        for row in held:
            with self._jobs.moving(row):
                lifecycle.release(row)
        return len(held)

    def _held(self, lock: str, leases: Iterable[Lease]) -> Iterator[Row]:
        for id_, attempt in dict.fromkeys(leases):
            row = self._jobs.rows.get(id_)
            if row is not None and lifecycle.holds(row, lock, attempt):
                yield row

    @_alone
    def permit(self, lock: str, asks: Sequence[Ask], *, lease_ms: int) -> list[int]:
        return [self._permit(lock, ask, lease_ms) for ask in asks]

    def _permit(self, lock: str, ask: Ask, lease_ms: int) -> int:
        now = self.now()
        held = {key: permit for key, permit in self._permits.items() if permit[1] > now}
        others = [n for (name, who), (n, _) in held.items() if name == ask.name and who != lock]
        permits = ask.permits(sum(others))
        held[ask.name, lock] = max(permits, ask.running), now + lease_ms
        self._permits = held
        return permits

    @_alone
    def leases(self, lock: str) -> set[Lease]:
        rows = self._jobs.running.values()
        return {Lease(row.id, row.attempt) for row in rows if row.lock == lock}

    @_alone
    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        now = self.now()
        if lock is not None:
            self._forget_permits(lock)
        found = [
            row
            for row in self._jobs.running.values()
            if (row.lock == lock if lock is not None else lifecycle.abandoned(row, now))
        ]
        rows = sorted(found, key=lambda row: (row.dt, row.lock, row.seq))[:limit]
        heads: dict[str, int] = {}
        for row in rows:
            self._free(row, now)
            if row.lock == FREE:
                heads[row.type] = min(row.dt, heads.get(row.type, row.dt))
        again = sum(row.lock == FREE for row in rows)
        return Freed(again, len(rows) - again, heads)

    def _free(self, row: Row, now: int) -> None:
        node = row.lock
        with self._jobs.moving(row):
            lifecycle.free(row, now)
        run = Run(
            attempt=row.attempt,
            status=row.status,
            node=node,
            started_at=row.started_at,
            ended_at=now,
            error=ABANDONED_TEXT,
        )
        row.ended(run)

    @_alone
    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        rows = self._jobs.rows.values()
        done = [row for row in rows if row.lock == DONE and self._jobs.is_orphan(row)]
        done.sort(key=lambda row: (row.kind != OK, row.dt))
        past = [
            row
            for row in done
            if lifecycle.finished_at(row.dt) < (ok_before if row.kind == OK else failed_before)
        ]
        count = 0
        rest = [row for row in done if all(row is not other for other in past)]
        for row in (*past, *rest):
            is_past = count < len(past)
            if count == limit or not (is_past or self._jobs.bytes > bytes_max):
                break
            self._jobs.delete(row)
            count += 1
        self._purged += count
        self._forget(min(ok_before, failed_before))
        return count

    def _forget(self, oldest: int) -> None:
        self._keys.forget(self.now(), oldest, self._jobs.rows)
        shown = self.now() - NODES_KEPT_MS
        self._nodes = {name: node for name, node in self._nodes.items() if node.seen_at >= shown}

    @_alone
    def control_version(self) -> int:
        return self._settings.version

    @_alone
    def control(self) -> Control:
        return self._settings.control()

    @_alone
    def job(self, id: str) -> JobView | None:
        row = self._row(id)
        return None if row is None else view(row, whole=True)

    def _row(self, id_: str) -> Row | None:
        rows = self._jobs.rows
        return rows.get(id_) or rows.get(self._keys.resolve(id_) or "")

    @_alone
    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        rows = self._jobs.chosen(where, self.now())
        rows = [row for row in rows if not before or row.id < before]
        rows.sort(key=lambda row: row.id, reverse=True)
        return [view(row, whole=False) for row in rows[:limit]]

    @_alone
    def type(self, type: str) -> TypeView | None:
        found = self._jobs.types.get(type)
        return None if found is None else type_view(type, found)

    @_alone
    def load(self, type: str, most: int) -> Load:
        now = self.now()
        waiting = (row for row in self._jobs.rows.values() if row.type == type and not row.lock)
        ready = sorted(row.dt for row in waiting if row.dt <= now)[:most]
        return Load(len(ready), ready[0] if ready else None)

    @_alone
    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        names = [name for name in self._jobs.types if is_of(name, client, jobtype)]
        names = sorted(name for name in names if name > after)[:limit]
        return [type_view(name, self._jobs.types[name]) for name in names]

    @_alone
    def totals(self) -> Totals:
        counts = [type_.counts for type_ in self._jobs.types.values()]
        waiting, running, ok, failed, error = map(sum, zip([0] * 5, *counts, strict=True))
        return Totals(
            waiting=waiting,
            running=running,
            ok=ok,
            failed=failed,
            error=error,
            purged=self._purged,
            bytes=self._jobs.bytes,
            types=len(counts),
        )

    @_alone
    def nodes(self) -> list[Node]:
        return [node for _, node in sorted(self._nodes.items())]

    @_alone
    def key_use(self, type: str, key: str) -> KeyUse | None:
        return self._keys.use((type, key), self.now())

    @_alone
    def versions(self, client: str, jobtype: str) -> list[Handler]:
        return self._settings.versions((client, jobtype))

    # Changes by hand.

    @_alone
    def cancel(self, ids: Sequence[str]) -> list[str]:
        return [id_ for id_ in dict.fromkeys(ids) if self._change("cancel", self._row(id_))]

    @_alone
    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        rows = [row for row in map(self._row, ids) if self._change("retry", row)]
        return {row.type: row.dt for row in rows if row is not None}

    def _change(self, verb: str, row: Row | None) -> bool:
        if row is None:
            return False
        if verb == "cancel" and lifecycle.may_hold(row):
            self._jobs.types[row.type].hold_until = 0
        with self._jobs.moving(row):
            change = {"cancel": lifecycle.cancel, "retry": lifecycle.retry}[verb]
            return change(row, self.now())

    @_alone
    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        count = 0
        for row in self._jobs.chosen(where, self.now()):
            if count < limit:
                count += self._change(verb, row)
        return count

    @_alone
    def put_handler(self, handler: Handler) -> Handler:
        return self._settings.put_handler(handler, self.now())

    @_alone
    def delete_handler(self, client: str, jobtype: str) -> bool:
        return self._settings.delete_handler((client, jobtype))

    @_alone
    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        return self._settings.rollback_handler((client, jobtype), version)

    @_alone
    def put_policy(self, policy: Policy) -> None:
        self._settings.put_policy(policy)

    @_alone
    def purge_type(self, type: str, limit: int) -> int:
        found = self._jobs.types.get(type)
        waiting = found.waiting[:limit] if found is not None else []
        return sum(self._change("cancel", self._jobs.rows[id_]) for _, _, id_ in waiting)
