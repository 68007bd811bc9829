"""Few jobs of a PostgreSQL store at a time, moved by the machine itself.

What is rare (free, release, cancel, retry) is not said again in SQL: the marks are read
and their rows locked, `core/lifecycle.py` moves them, and they are written back, in few
statements for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from slimq.core.lifecycle import DONE, DONE_SHIFT_MS, FREE, Lease, Mark
from slimq.core.limits import RUNS_MAX
from slimq.store.counts import kind_of
from slimq.store.postgres_tx import Tx, Values
from slimq.store.postgres_types import Tally, hint

_LIVE = """
SELECT seq, id, type_id, started_at, NULL::text, dt, lock, attempt, failures, crashes, due_at,
  status
FROM slimq.job
"""
_DONE = f"""
SELECT seq, id, type_id, started_at, node, ended_at + {DONE_SHIFT_MS}, '{DONE}', attempt, failures,
  crashes, due_at, status
FROM slimq.done
"""  # noqa: S608
_BY_ID = " WHERE id = ANY(%s::text[]) ORDER BY id FOR UPDATE"
_HELD = """
WHERE lock = %s AND (id, attempt) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
ORDER BY id FOR UPDATE
"""
_MOVE = """
UPDATE slimq.job SET dt = m.dt, lock = m.lock, failures = m.failures, crashes = m.crashes,
  due_at = m.due_at, status = m.status
FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::int[], %s::int[], %s::bigint[],
  %s::int[]) AS m(seq, id, dt, lock, failures, crashes, due_at, status)
WHERE job.id = m.id
"""
_END = f"""
WITH m AS (
  SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::int[], %s::int[],
    %s::bigint[], %s::int[], %s::text[], %s::text[])
  AS m(seq, id, dt, lock, failures, crashes, due_at, status, node, error)),
over AS (DELETE FROM slimq.job USING m WHERE job.id = m.id
  RETURNING job.started_at, job.attempt, job.parent, job.trace, job.data, job.type_id, m.*)
INSERT INTO slimq.done (seq, ended_at, due_at, started_at, slot, type_id, attempt, failures,
  crashes, status, id, node, parent, trace, error, data)
SELECT seq, dt - {DONE_SHIFT_MS}, due_at, started_at, slimq.slot(dt - {DONE_SHIFT_MS}, status),
  type_id, attempt, failures, crashes, status, id, node, parent, trace, error, data
FROM over
"""  # noqa: S608
_REVIVE = """
WITH m AS (
  SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::int[], %s::int[],
    %s::bigint[], %s::int[])
  AS m(seq, id, dt, lock, failures, crashes, due_at, status)),
back AS (DELETE FROM slimq.done USING m WHERE done.id = m.id
  RETURNING done.started_at, done.attempt, done.parent, done.trace, done.data, done.type_id, m.*)
INSERT INTO slimq.job (seq, dt, due_at, started_at, type_id, attempt, failures, crashes, status,
  id, lock, parent, trace, data)
OVERRIDING SYSTEM VALUE
SELECT seq, dt, due_at, started_at, type_id, attempt, failures, crashes, status, id, lock, parent,
  trace, data
FROM back
"""
_ADD_RUNS = """
INSERT INTO slimq.run (seq, attempt, status, started_at, ended_at, node, error)
SELECT m.seq, m.attempt, m.status, m.started_at, slimq.now_ms(), m.node, m.error
FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[], %s::text[], %s::text[])
  AS m(seq, attempt, status, started_at, node, error)
ON CONFLICT (seq, attempt) DO UPDATE SET status = excluded.status,
  started_at = excluded.started_at, ended_at = excluded.ended_at, node = excluded.node,
  error = excluded.error, output_id = NULL, result = NULL
"""
_KEEP_LAST = """
INSERT INTO slimq.run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT seq, attempt, status, started_at, ended_at, output_id, node, error, result
FROM slimq.done WHERE id = ANY(%s::text[]) AND node IS NOT NULL
"""
_DELETE_RUNS = """
DELETE FROM slimq.run USING unnest(%s::bigint[], %s::int[]) AS m(seq, attempt)
WHERE run.seq = m.seq AND run.attempt <= m.attempt RETURNING run.output_id
"""
_DROP_OUTPUTS = """
WITH used AS (
  UPDATE slimq.output SET refs = refs - m.count
  FROM unnest(%s::bigint[], %s::int[]) AS m(output_id, count)
  WHERE output.output_id = m.output_id RETURNING output.output_id, refs)
SELECT output_id FROM used WHERE refs <= 0
"""


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


def read_marks(tx: Tx, ids: Sequence[str]) -> list[Marked]:
    """Return the jobs with these ids, each once, in their order, and lock them. Those that
    are not done come first: one that ends meanwhile is found among the others."""
    asked = list(dict.fromkeys(ids))
    found = {row.id: row for row in parse_marks(tx.all(_LIVE + _BY_ID, (asked,)))}
    rest = [id_ for id_ in asked if id_ not in found]
    if rest:
        found |= {row.id: row for row in parse_marks(tx.all(_DONE + _BY_ID, (rest,)))}
    return [found[id_] for id_ in asked if id_ in found]


def read_held(tx: Tx, lock: str, leases: Sequence[Lease]) -> list[Marked]:
    """Return the jobs whose leases hold, and lock them."""
    ids, attempts = [lease.id for lease in leases], [lease.attempt for lease in leases]
    return parse_marks(tx.all(_LIVE + _HELD, (lock, ids, attempts)))


def read_live(tx: Tx, rest: str, values: Values) -> list[Marked]:
    """Return the jobs that ``FROM slimq.job <rest>`` finds."""
    return parse_marks(tx.all(f"{_LIVE} {rest}", values))


def read_done(tx: Tx, rest: str, values: Values) -> list[Marked]:
    """Return the jobs that ``FROM slimq.done <rest>`` finds."""
    return parse_marks(tx.all(f"{_DONE} {rest}", values))


def parse_marks(rows: Iterable[Sequence[Any]]) -> list[Marked]:
    return [
        Marked(seq, id_, type_id, started_at, node, Mark(*mark), Mark(*mark))
        for seq, id_, type_id, started_at, node, *mark in rows
    ]


def write_marks(tx: Tx, rows: Sequence[Marked], shard: int) -> dict[int, int]:
    """Write jobs that the machine moved; return the earliest dt of the waiting ones by the
    number of their type."""
    if not rows:
        return {}
    live = [row for row in rows if row.before.lock != DONE and row.mark.lock != DONE]
    over = [row for row in rows if row.before.lock != DONE and row.mark.lock == DONE]
    back = [row for row in rows if row.before.lock == DONE]
    if live:
        tx.do(_MOVE, _columns(live))
    if over:
        said = ([row.node for row in over], [row.error for row in over])
        tx.do(_END, (*_columns(over), *said))
    if back:
        tx.do(_REVIVE, _columns(back))
    tally = Tally(shard)
    heads: dict[int, int] = {}
    for row in rows:
        tally.add(row.type_id, kind_of(row.before.lock, row.before.status), -1)
        tally.add(row.type_id, kind_of(row.mark.lock, row.mark.status), 1)
        if row.mark.lock == FREE:
            heads[row.type_id] = min(heads.get(row.type_id, row.mark.dt), row.mark.dt)
    tally.apply(tx)
    hint(tx, heads)
    return heads


def _columns(rows: Sequence[Marked]) -> tuple[list[Any], ...]:
    marks = [row.mark for row in rows]
    return (
        [row.seq for row in rows],
        [row.id for row in rows],
        [mark.dt for mark in marks],
        [mark.lock for mark in marks],
        [mark.failures for mark in marks],
        [mark.crashes for mark in marks],
        [mark.due_at for mark in marks],
        [mark.status for mark in marks],
    )


def add_abandoned_runs(tx: Tx, rows: Sequence[Marked]) -> None:
    """Keep a record of runs that ended because their nodes died, of jobs that go on."""
    if not rows:
        return
    tx.do(
        _ADD_RUNS,
        (
            [row.seq for row in rows],
            [row.mark.attempt for row in rows],
            [row.mark.status for row in rows],
            [row.started_at for row in rows],
            [row.before.lock for row in rows],
            [row.error for row in rows],
        ),
    )
    cut_runs(tx, [(row.seq, row.mark.attempt) for row in rows])


def keep_last_runs(tx: Tx, rows: Sequence[Marked]) -> None:
    """Put the run that ended a job aside, before the job is written to run again."""
    if rows:
        tx.do(_KEEP_LAST, ([row.id for row in rows],))
        cut_runs(tx, [(row.seq, row.mark.attempt) for row in rows])


def cut_runs(tx: Tx, attempts: Iterable[tuple[int, int]]) -> None:
    """Forget all but the last RUNS_MAX attempts of jobs (seq, attempt)."""
    long = [(seq, attempt - RUNS_MAX) for seq, attempt in attempts if attempt > RUNS_MAX]
    if long:
        outputs = tx.all(_DELETE_RUNS, tuple(map(list, zip(*long, strict=True))))
        drop_outputs(tx, [output_id for (output_id,) in outputs])


def drop_outputs(tx: Tx, output_ids: Sequence[int | None]) -> None:
    """Say that these runs are gone; an output goes with the last run that shows it."""
    counts: dict[int, int] = {}
    for output_id in output_ids:
        if output_id is not None:
            counts[output_id] = counts.get(output_id, 0) + 1
    if counts:
        gone = tx.all(_DROP_OUTPUTS, (list(counts), list(counts.values())))
        if gone:
            ids = [output_id for (output_id,) in gone]
            tx.do("DELETE FROM slimq.output WHERE output_id = ANY(%s::bigint[])", (ids,))
