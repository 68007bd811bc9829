"""The jobs of a memory store: rows by id, and what is found without looking at all of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from slimq.core import lifecycle
from slimq.core.jobid import parse_id
from slimq.core.jobtype import split_type
from slimq.core.lifecycle import DONE, FREE, Mark, State
from slimq.core.limits import RUNS_MAX
from slimq.core.status import outcome_of
from slimq.store.base import JobFilter, JobView, NewJobs, Run, TypeView
from slimq.store.counts import KINDS, RUNNING, WAITING, kind_of


class Row(Mark, kw_only=True):
    """A job: where it stands, and all that is beside it. `seq` is its order of ingest."""

    id: str
    type: str
    seq: int
    data: bytes
    parent: str
    trace: str
    started_at: int = 0
    runs: list[Run] = msgspec.field(default_factory=list)

    @property
    def kind(self) -> int:
        return kind_of(self.lock, self.status)

    def ended(self, run: Run) -> None:
        self.runs = [*self.runs, run][-RUNS_MAX:]


class TypeRow(msgspec.Struct):
    """Counts by kind, and the waiting jobs as (dt, seq, id), in the order of claims."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * len(KINDS))
    waiting: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    hold_until: int = 0

    @property
    def next_at(self) -> int | None:
        return self.waiting[0][0] if self.waiting else None


class Jobs:
    """All jobs, with the indexes that follow every move."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.types: dict[str, TypeRow] = {}
        self.running: dict[str, Row] = {}
        self.bytes = 0
        self._seq = 0

    def insert(self, new: NewJobs) -> int:
        """Add jobs that are not there; return how many."""
        added = 0
        self.types.setdefault(new.type, TypeRow())
        for id_, data in zip(new.ids, new.data, strict=True):
            if id_ in self.rows:
                continue
            self._seq += 1
            row = Row(
                *(new.dt, FREE, 0, 0, 0, new.dt),
                id=id_,
                type=new.type,
                seq=self._seq,
                data=data,
                parent=new.parent,
                trace=new.trace,
            )
            self.rows[id_] = row
            self.bytes += len(data)
            self._enter(row)
            added += 1
        return added

    def delete(self, row: Row) -> None:
        self._leave(row)
        del self.rows[row.id]
        self.bytes -= len(row.data)

    @contextmanager
    def moving(self, row: Row) -> Iterator[None]:
        """Let the machine move a job, and the indexes follow."""
        self._leave(row)
        yield
        self._enter(row)

    def ready(self, type_: str, now: int) -> list[Row]:
        """Return the ready jobs of a type in the order of claims."""
        found = self.types.get(type_, TypeRow())
        end = bisect_left(found.waiting, (now + 1,))
        return [self.rows[id_] for _, _, id_ in found.waiting[:end]]

    def hold(self, type_: str, until: int) -> None:
        self.types[type_].hold_until = max(self.types[type_].hold_until, until)

    def chosen(self, where: JobFilter, now: int) -> list[Row]:
        return [row for row in self.rows.values() if fits(row, where, now)]

    def is_orphan(self, row: Row) -> bool:
        """Return whether no parent that may run again could add this job once more."""
        parent = self.rows.get(row.parent)
        return parent is None or parent.lock == DONE

    def _enter(self, row: Row) -> None:
        type_ = self.types[row.type]
        type_.counts[row.kind] += 1
        if row.kind == WAITING:
            insort(type_.waiting, (row.dt, row.seq, row.id))
        elif row.kind == RUNNING:
            self.running[row.id] = row

    def _leave(self, row: Row) -> None:
        type_ = self.types[row.type]
        type_.counts[row.kind] -= 1
        if row.kind == WAITING:
            del type_.waiting[bisect_left(type_.waiting, (row.dt, row.seq, row.id))]
        elif row.kind == RUNNING:
            del self.running[row.id]


def that_fit(rows: list[Row], bytes_max: int) -> list[Row]:
    """Return as many rows as have at most `bytes_max` of data, at least one."""
    total = 0
    for count, row in enumerate(rows):
        total += len(row.data)
        if total > bytes_max and count:
            return rows[:count]
    return rows


def view(row: Row, *, whole: bool) -> JobView:
    last = row.runs[-1] if row.runs else None
    return JobView(
        id=row.id,
        type=row.type,
        dt=row.dt,
        lock=row.lock,
        attempt=row.attempt,
        failures=row.failures,
        crashes=row.crashes,
        status=row.status,
        due_at=row.due_at,
        data=row.data if whole else None,
        result=last.result if last else b"",
        error=last.error if last else "",
        parent=row.parent,
        trace=row.trace,
        runs=[run for run in row.runs if run.attempt > row.attempt - RUNS_MAX] if whole else [],
    )


def type_view(name: str, type_: TypeRow) -> TypeView:
    waiting, running, ok, failed, error = type_.counts
    return TypeView(
        type=name,
        waiting=waiting,
        running=running,
        ok=ok,
        failed=failed,
        error=error,
        next_at=type_.next_at,
        hold_until=type_.hold_until,
    )


def fits(row: Row, where: JobFilter, now: int) -> bool:
    """Return whether a filter means a job."""
    state = lifecycle.state_of(row.dt, row.lock, now)
    outcome = outcome_of(row.status) if state is State.DONE else None
    accepted_at = parse_id(row.id).time_ms
    return (
        is_of(row.type, where.client, where.jobtype)
        and where.state in (None, state)
        and where.outcome in (None, outcome)
        and (where.since is None or where.since <= accepted_at)
        and (where.until is None or accepted_at < where.until)
        and (
            where.done_at is None
            or state is not State.DONE
            or lifecycle.finished_at(row.dt) <= where.done_at
        )
    )


def is_of(type_: str, client: str | None, jobtype: str | None) -> bool:
    own_client, own_jobtype = split_type(type_)
    return client in (None, own_client) and jobtype in (None, own_jobtype)
