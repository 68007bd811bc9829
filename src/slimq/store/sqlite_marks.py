"""Few jobs of a SQLite store at a time, moved by the machine itself.

What is rare (free, release, cancel, retry) is not said again in SQL: the marks are read,
`core/lifecycle.py` moves them, and they are written back, in two statements for all.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw
import msgspec

from slimq.core.lifecycle import DONE_SHIFT_MS, FREE, Mark
from slimq.core.limits import RUNS_MAX
from slimq.store.counts import WAITING, kind_of
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_types import Tally, from_json, to_json

_COLUMNS = (
    "json_array(m.seq, m.id, m.type_id, m.started_at, m.node, "
    "m.dt, m.lock, m.attempt, m.failures, m.crashes, m.due_at, m.status)"
)
_BY_ID = f"""
SELECT json_group_array({_COLUMNS})
FROM json_each(?) AS asked CROSS JOIN job AS m INDEXED BY job_by_id ON m.id = asked.value
"""  # noqa: S608
_WRITE = """
UPDATE job SET dt = m.value->>1, lock = m.value->>2, failures = m.value->>3,
  crashes = m.value->>4, due_at = m.value->>5, status = m.value->>6,
  node = m.value->>7, error = m.value->>8, result = NULL, output_id = NULL
FROM json_each(?) AS m WHERE job.seq = m.value->>0
"""
_ADD_RUNS = """
REPLACE INTO run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, NULL, value->>5, value->>6, NULL
FROM json_each(?)
"""
_OLD_RUNS = """
SELECT json_group_array(json_array(run.seq, run.attempt, run.output_id))
FROM json_each(?) AS m CROSS JOIN run
  ON run.seq = m.value->>0 AND run.attempt <= m.value->>1
"""
_DELETE_RUNS = """
DELETE FROM run WHERE (seq, attempt) IN (SELECT value->>0, value->>1 FROM json_each(?))
"""
_KEEP_LAST = """
INSERT INTO run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT seq, attempt, status, started_at, dt - ?1, output_id, node, error, result
FROM job WHERE seq IN carray(?2) AND lock = '__done' AND node IS NOT NULL
"""


Values = Sequence[Any] | Mapping[str, Any]


class Marked(msgspec.Struct):
    """A job that may move. `node` is who ran its last run, when that run ended the job."""

    seq: int
    id: str
    type_id: int
    started_at: int | None
    node: str | None
    mark: Mark
    before: Mark
    error: str | None = None


def read_marks(db: apsw.Connection, ids: Sequence[str]) -> list[Marked]:
    """Return the jobs with these ids, each once, in their order."""
    return parse_marks(db.execute(_BY_ID, (to_json(list(dict.fromkeys(ids))),)).get)


def read_marks_where(db: apsw.Connection, rest: str, values: Values) -> list[Marked]:
    """Return the jobs that ``FROM job <rest>`` finds."""
    chosen = f"SELECT * FROM job {rest}"  # noqa: S608 -- our own text
    query = f"SELECT json_group_array({_COLUMNS}) FROM ({chosen}) AS m"  # noqa: S608
    return parse_marks(db.execute(query, values).get)


def parse_marks(text: str) -> list[Marked]:
    found = []
    for seq, id_, type_id, started_at, node, *mark in from_json(text):
        found.append(Marked(seq, id_, type_id, started_at, node, Mark(*mark), Mark(*mark)))
    return found


def write_marks(tx: Write, rows: Sequence[Marked]) -> dict[str, int]:
    """Write jobs that the machine moved; return the earliest dt of the waiting ones by type."""
    if not rows:
        return {}
    written = [_row(row) for row in rows]
    tx.db.execute(_WRITE, (to_json(written),))
    tally = Tally()
    heads: dict[int, int] = {}
    for row in rows:
        count_move(tally, row.type_id, row.before, row.mark)
        if row.mark.lock == FREE:
            heads[row.type_id] = min(heads.get(row.type_id, row.mark.dt), row.mark.dt)
    tally.apply(tx.db)
    return {tx.types.name(tx.db, type_id): dt for type_id, dt in heads.items()}


def _row(row: Marked) -> tuple[object, ...]:
    mark = row.mark
    return (
        row.seq,
        mark.dt,
        mark.lock,
        mark.failures,
        mark.crashes,
        mark.due_at,
        mark.status,
        row.node,
        row.error,
    )


def count_move(tally: Tally, type_id: int, before: Mark, after: Mark) -> None:
    old, new = kind_of(before.lock, before.status), kind_of(after.lock, after.status)
    tally.add(type_id, old, -1)
    tally.add(type_id, new, 1)
    if old == WAITING:
        tally.took(type_id)
    elif new == WAITING:
        tally.due(type_id, after.dt)


def add_abandoned_runs(db: apsw.Connection, rows: Sequence[Marked], now: int) -> None:
    """Keep a record of runs that ended because their nodes died, of jobs that go on."""
    runs = [
        (
            row.seq,
            row.mark.attempt,
            row.mark.status,
            row.started_at,
            now,
            row.before.lock,
            row.error,
        )
        for row in rows
    ]
    db.execute(_ADD_RUNS, (to_json(runs),))
    cut_runs(db, [(row.seq, row.mark.attempt) for row in rows])


def keep_last_runs(db: apsw.Connection, rows: Sequence[Marked]) -> None:
    """Put the run that ended a job aside, before the job is written to run again."""
    if rows:
        seqs = array("q", [row.seq for row in rows])
        db.execute(_KEEP_LAST, (DONE_SHIFT_MS, apsw.carray(seqs)))
        cut_runs(db, [(row.seq, row.mark.attempt) for row in rows])


def cut_runs(db: apsw.Connection, attempts: Iterable[tuple[int, int]]) -> None:
    """Forget all but the last RUNS_MAX attempts of jobs (seq, attempt)."""
    long = [(seq, attempt - RUNS_MAX) for seq, attempt in attempts if attempt > RUNS_MAX]
    if not long:
        return
    old = from_json(db.execute(_OLD_RUNS, (to_json(long),)).get)
    if old:
        db.execute(_DELETE_RUNS, (to_json(old),))
        drop_outputs(db, [output_id for *_, output_id in old])


def drop_outputs(db: apsw.Connection, output_ids: Sequence[int | None]) -> None:
    """Say that these runs are gone; an output goes with the last run that shows it."""
    counts: dict[int, int] = {}
    for output_id in output_ids:
        if output_id is not None:
            counts[output_id] = counts.get(output_id, 0) + 1
    if counts:
        used = to_json(list(counts.items()))
        db.execute(
            "UPDATE output SET refs = refs - (m.value->>1) "
            "FROM json_each(?) AS m WHERE output_id = m.value->>0",
            (used,),
        )
        db.execute(
            "DELETE FROM output WHERE refs <= 0 "
            "AND output_id IN (SELECT value->>0 FROM json_each(?))",
            (used,),
        )
