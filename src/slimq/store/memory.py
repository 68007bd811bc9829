"""The machine of `core/lifecycle.py` over a dict: the oracle for other stores, and the
double in tests. Right rather than fast; one lock makes it safe for several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from slimq.core import lifecycle
from slimq.core.handler import Handler
from slimq.core.job import Job
from slimq.core.jobid import block_from, parse_id
from slimq.core.jobtype import split_type
from slimq.core.lifecycle import DONE, FREE, Lease, Mark, State
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS, LEASE_MS
from slimq.core.status import ABANDONED, Outcome, outcome_of
from slimq.store.base import (
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
    NewJobs,
    Node,
    Policy,
    Run,
    Totals,
    TypeView,
)
from slimq.system.clock import Clock

F = TypeVar("F", bound=Callable[..., Any])


class _Row(Mark):
    """A job: where it stands, and all that is beside it."""

    id: str = ""
    type: str = ""
    seq: int = 0
    data: bytes = b""
    parent: str = ""
    trace: str = ""
    result: bytes = b""
    error: str = ""
    runs: list[Run] = []


def locked(method: F) -> F:
    def call(self: MemoryStore, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return call  # type: ignore[return-value]


class MemoryStore:
    """Keeps EngineStore and ControlStore."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._rows: dict[str, _Row] = {}
        self._seq = 0
        self._now = 0
        self._cursors: dict[str, Cursor] = {}
        self._keys: dict[tuple[str, str], tuple[KeyUse, int]] = {}
        self._alias: list[tuple[str, int, str]] = []
        self._hold: dict[str, int] = {}
        self._seen: set[str] = set()
        self._nodes: dict[str, Node] = {}
        self._handlers: dict[tuple[str, str], list[Handler]] = {}
        self._current: dict[tuple[str, str], int] = {}
        self._policies: dict[tuple[str, str], Policy] = {}
        self._version = 0
        self._purged = 0

    @locked
    def now(self) -> int:
        self._now = max(self._now, self._clock.wall_ms())
        return self._now

    # --- nodes -------------------------------------------------------------

    @locked
    def register(self, node: Node) -> bool:
        other = self._nodes.get(node.sysid)
        if other is not None and other.seen_at > self.now() - LEASE_MS:
            return False
        self._nodes[node.sysid] = node
        return True

    @locked
    def beat(self, node: Node) -> None:
        self._nodes[node.sysid] = node

    @locked
    def leave(self, sysid: str) -> None:
        self._nodes.pop(sysid, None)

    @locked
    def nodes(self) -> list[Node]:
        return sorted(self._nodes.values(), key=lambda node: node.sysid)

    # --- ingest ------------------------------------------------------------

    @locked
    def cursor(self, journal: str) -> Cursor:
        return self._cursors.get(journal, Cursor())

    @locked
    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        if self.cursor(journal) != expected:
            raise CursorMoved
        done = Ingested(0, 0, 0, {})
        for new in jobs:
            if new.key and self._is_replay(new):
                done.skipped += len(new.ids)
                done.replays += 1
                continue
            fresh = [
                pair for pair in zip(new.ids, new.data, strict=True) if pair[0] not in self._rows
            ]
            done.added += len(fresh)
            done.skipped += len(new.ids) - len(fresh)
            for id_, data in fresh:
                self._insert(new, id_, data)
            if fresh:
                done.heads[new.type] = min(new.dt, done.heads.get(new.type, new.dt))
        self._cursors[journal] = moved
        return done

    def _insert(self, new: NewJobs, id_: str, data: bytes) -> None:
        self._seq += 1
        self._seen.add(new.type)
        self._rows[id_] = _Row(
            new.dt,
            FREE,
            0,
            0,
            0,
            new.dt,
            id=id_,
            type=new.type,
            seq=self._seq,
            data=data,
            parent=new.parent,
            trace=new.trace,
            runs=[],
        )

    def _is_replay(self, new: NewJobs) -> bool:
        name = (new.type, new.key)
        use, at = self._keys.get(name, (None, 0))
        if use is None or at <= self.now() - IDEMPOTENCY_WINDOW_MS:
            self._keys[name] = (KeyUse(new.record, new.count, new.digest), self.now())
            return False
        if use.first == new.record or use.digest != new.digest:
            return False
        alias = (new.record, new.count, use.first)
        if alias not in self._alias:
            self._alias.append(alias)
        return True

    @locked
    def key_use(self, type: str, key: str) -> KeyUse | None:
        use, at = self._keys.get((type, key), (None, 0))
        return use if at > self.now() - IDEMPOTENCY_WINDOW_MS else None

    def barrier(self) -> bool:
        return True

    # --- leases ------------------------------------------------------------

    @locked
    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        heads: dict[str, int] = {}
        for row in self._rows.values():
            if row.lock == FREE and row.type > after:
                heads[row.type] = min(row.dt, heads.get(row.type, row.dt))
        found = sorted(DueType(t, max(dt, self._hold.get(t, 0))) for t, dt in heads.items())
        return [due for due in found if due.next_at <= until][:limit]

    @locked
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
        now = self.now()
        waiting = self._waiting(type)
        ready = [row for row in waiting if row.dt <= now]
        if ordered:
            if any(r.type == type and r.lock not in (FREE, DONE) for r in self._rows.values()):
                return Claim([], None)
            if self._hold.get(type, 0) > now:
                return Claim([], self._hold[type])
        if ready and len(ready) < full and ready[0].dt + window_ms > now:
            return Claim([], ready[0].dt + window_ms)
        jobs: list[Job] = []
        size = 0
        for row in ready[:limit]:
            size += len(row.data)
            if jobs and size > bytes_max:
                break
            lifecycle.claim(row, lock, now, lease_ms)
            jobs.append(
                Job(row.id, row.attempt, row.failures, row.crashes, row.due_at, row.data, row.trace)
            )
        rest = waiting[len(jobs) :]
        return Claim(jobs, rest[0].dt if rest else None)

    def _waiting(self, type: str) -> list[_Row]:
        rows = [row for row in self._rows.values() if row.type == type and row.lock == FREE]
        return sorted(rows, key=lambda row: (row.dt, row.seq))

    def _held(self, lock: str, leases: Iterable[Lease]) -> Iterable[tuple[str, _Row | None]]:
        for id_, attempt in leases:
            row = self._rows.get(id_)
            yield id_, row if row is not None and lifecycle.holds(row, lock, attempt) else None

    @locked
    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        lost = set()
        for id_, row in self._held(lock, leases):
            if row is None:
                lost.add(id_)
            else:
                lifecycle.renew(row, self.now(), lease_ms)
        return lost

    @locked
    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        held = [row for _, row in self._held(lock, leases) if row is not None]
        for row in held:
            lifecycle.release(row)
        return len(held)

    @locked
    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        stale = set()
        for run in finished:
            for move in run.moves:
                row = self._rows.get(move.id)
                if row is None or not lifecycle.holds(row, lock, move.attempt):
                    stale.add(move.id)
                    continue
                lifecycle.finish(row, move)
                row.result, row.error = move.result, move.error
                row.runs.append(
                    Run(
                        attempt=move.attempt,
                        status=move.status,
                        node=lock,
                        started_at=run.started_at,
                        ended_at=self.now(),
                        result=move.result,
                        error=move.error,
                        output=run.output,
                    )
                )
                if move.hold_until:
                    self._hold[row.type] = move.hold_until
        return stale

    @locked
    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        now = self.now()
        again = dead = 0
        heads: dict[str, int] = {}
        for row in list(self._rows.values()):
            if again + dead >= limit:
                break
            if row.lock != lock if lock else not lifecycle.abandoned(row, now):
                continue
            owner = row.lock
            lifecycle.free(row, now)
            row.error = "the node that ran it died or lost its lease"
            row.runs.append(
                Run(
                    attempt=row.attempt,
                    status=ABANDONED,
                    node=owner,
                    started_at=0,
                    ended_at=now,
                    error=row.error,
                )
            )
            if row.lock == DONE:
                dead += 1
            else:
                again += 1
                heads[row.type] = min(row.dt, heads.get(row.type, row.dt))
        return Freed(again, dead, heads)

    @locked
    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        done = [row for row in self._rows.values() if row.lock == DONE and not self._needed(row)]
        done.sort(key=lambda row: (row.status >= 300, row.dt))
        size = sum(len(row.data) for row in self._rows.values())
        count = 0
        for row in done:
            before = ok_before if row.status < 300 else failed_before
            if count < limit and (lifecycle.finished_at(row.dt) < before or size > bytes_max):
                size -= len(row.data)
                del self._rows[row.id]
                count += 1
        self._purged += count
        return count

    def _needed(self, row: _Row) -> bool:
        parent = self._rows.get(row.parent)
        return parent is not None and parent.lock != DONE

    # --- questions ---------------------------------------------------------

    @locked
    def job(self, id: str) -> JobView | None:
        row = self._rows.get(id) or self._rows.get(self._resolve(id))
        return None if row is None else self._view(row, whole=True)

    def _resolve(self, id: str) -> str:
        for loser, count, winner in self._alias:
            index = block_from(loser, count).index(id)
            if index is not None:
                return block_from(winner, count).id_at(index)
        return id

    def _view(self, row: _Row, *, whole: bool) -> JobView:
        names = (set(JobView.__struct_fields__) & set(_Row.__struct_fields__)) - {"data", "runs"}
        fields = {name: getattr(row, name) for name in names}
        if whole:
            fields |= {"data": row.data, "runs": list(row.runs)}
        return JobView(**fields)

    @locked
    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        rows = sorted(self._match(where), key=lambda row: row.id, reverse=True)
        rows = [row for row in rows if not before or row.id < before]
        return [self._view(row, whole=False) for row in rows[:limit]]

    def _match(self, where: JobFilter) -> list[_Row]:
        now = self.now()
        return [row for row in self._rows.values() if _fits(row, where, now)]

    @locked
    def type(self, type: str) -> TypeView | None:
        if type not in self._seen:
            return None
        rows = [row for row in self._rows.values() if row.type == type]
        counts = _counts(rows)
        next_at = min((row.dt for row in rows if row.lock == FREE), default=None)
        return TypeView(type=type, next_at=next_at, hold_until=self._hold.get(type, 0), **counts)

    @locked
    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        found = []
        for name in sorted(self._seen):
            own_client, own_jobtype = split_type(name)
            if name > after and client in (None, own_client) and jobtype in (None, own_jobtype):
                view = self.type(name)
                assert view is not None, "a seen type has a view"
                found.append(view)
        return found[:limit]

    @locked
    def totals(self) -> Totals:
        size = sum(len(row.data) for row in self._rows.values())
        counts = _counts(self._rows.values())
        return Totals(purged=self._purged, bytes=size, types=len(self._seen), **counts)

    # --- control -----------------------------------------------------------

    @locked
    def control_version(self) -> int:
        return self._version

    @locked
    def control(self) -> Control:
        current = [
            next(h for h in self._handlers[name] if h.version == version)
            for name, version in self._current.items()
        ]
        return Control(self._version, current, list(self._policies.values()))

    @locked
    def versions(self, client: str, jobtype: str) -> list[Handler]:
        return list(reversed(self._handlers.get((client, jobtype), [])))

    @locked
    def put_handler(self, handler: Handler) -> Handler:
        name = (handler.client, handler.jobtype)
        versions = self._handlers.setdefault(name, [])
        version = versions[-1].version + 1 if versions else 1
        stored = msgspec.structs.replace(handler, version=version, created_at=self.now())
        versions.append(stored)
        self._current[name] = version
        self._version += 1
        return stored

    @locked
    def delete_handler(self, client: str, jobtype: str) -> bool:
        self._current.pop((client, jobtype), None)
        self._version += 1
        return self._handlers.pop((client, jobtype), None) is not None

    @locked
    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        name = (client, jobtype)
        current = self._current.get(name, 0)
        fitting = [
            h
            for h in self._handlers.get(name, [])
            if (h.version < current if version is None else h.version == version)
        ]
        if not fitting:
            return None
        self._current[name] = fitting[-1].version
        self._version += 1
        return fitting[-1]

    @locked
    def put_policy(self, policy: Policy) -> None:
        self._policies[policy.client, policy.jobtype] = policy
        self._version += 1

    @locked
    def cancel(self, ids: Sequence[str]) -> list[str]:
        rows = [self._rows[id_] for id_ in ids if id_ in self._rows]
        return [row.id for row in rows if lifecycle.cancel(row, self.now())]

    @locked
    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        now = self.now()
        rows = [self._rows[id_] for id_ in ids if id_ in self._rows]
        return {row.type: now for row in rows if lifecycle.retry(row, now)}

    @locked
    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        change = lifecycle.cancel if verb == "cancel" else lifecycle.retry
        count = 0
        for row in sorted(self._match(where), key=lambda row: row.seq):
            if count < limit and change(row, self.now()):
                count += 1
        return count

    @locked
    def purge_type(self, type: str, limit: int) -> int:
        rows = self._waiting(type)[:limit]
        return sum(lifecycle.cancel(row, self.now()) for row in rows)

    def close(self) -> None:
        """Nothing is held."""


def _fits(row: _Row, where: JobFilter, now: int) -> bool:
    client, jobtype = split_type(row.type)
    state = lifecycle.state_of(row.dt, row.lock, now)
    at = parse_id(row.id).time_ms
    return (
        where.client in (None, client)
        and where.jobtype in (None, jobtype)
        and where.state in (None, state)
        and (
            where.outcome is None
            or (state is State.DONE and where.outcome == outcome_of(row.status))
        )
        and (where.since is None or at >= where.since)
        and (where.until is None or at < where.until)
    )


def _counts(rows: Iterable[_Row]) -> dict[str, int]:
    counts = dict.fromkeys(("waiting", "running", "ok", "failed", "error"), 0)
    names = {Outcome.OK: "ok", Outcome.FAILED: "failed", Outcome.ERROR: "error"}
    for row in rows:
        if row.lock == FREE:
            counts["waiting"] += 1
        elif row.lock == DONE:
            counts[names[outcome_of(row.status)]] += 1
        else:
            counts["running"] += 1
    return counts
