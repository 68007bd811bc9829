"""Runs end in a SQLite store: moves are applied where the lease still holds.

The run that ends a job is written into the job's own row; a run after which the job goes
on gets a row in `run`. Jobs that end alike are one UPDATE, and all others another one. Measured, a
row of the first costs 1.6 µs (1.2 when their ids are a whole range, as those of one `POST /add`
are), and one of the second, which takes its values out of JSON, 4.3. Nearly always every lease
holds; when one does not, all is done again without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw
from msgspec.structs import replace

from slimq.core.jobid import whole_range
from slimq.core.lifecycle import DONE, FREE, Move, each_of
from slimq.core.limits import RUNS_MAX
from slimq.store.base import Finished
from slimq.store.counts import RUNNING, kind_of
from slimq.store.sqlite_claim import HELD
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_marks import cut_runs
from slimq.store.sqlite_types import Tally, from_json, to_json

# Of a job: 0 id, 1 attempt, 2 dt, 3 status, 4 failures, 5 crashes, 6 where its result starts in
# the blob, 7 how long it is, 8 error, 9 output_id, 10 type_id.
_RESULT = "CASE WHEN m.value->>7 THEN substr(?2, (m.value->>6) + 1, m.value->>7) END"
_HOLDS = (
    "job.id = m.value->>0 AND job.lock = ?3 AND job.attempt = m.value->>1 "
    "AND ?3 NOT IN ('', '__done')"
)
_END = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '__done', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5, output_id = m.value->>9, node = ?3,
  error = m.value->>8, result = {_RESULT}
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = m.value->>10
"""  # noqa: S608
_END_ALIKE = """
UPDATE job INDEXED BY job_by_id SET dt = ?3, lock = '__done', status = ?4, failures = ?5,
  crashes = ?6, output_id = ?7, node = ?2, error = ?8, result = ?9
WHERE id {these} AND lock = ?2 AND attempt = ?10
  AND +type_id = ?11 AND ?2 NOT IN ('', '__done')
"""
_END_LISTED = _END_ALIKE.format(these="IN (SELECT value FROM json_each(?1))")
_END_RANGE = _END_ALIKE.format(these="BETWEEN ?1 AND ?12")
_AGAIN = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = m.value->>10
"""  # noqa: S608
_ADD_RUNS = f"""
REPLACE INTO run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT job.seq, job.attempt, m.value->>3, job.started_at, ?4, m.value->>9, ?3, m.value->>8,
  {_RESULT}
FROM json_each(?1) AS m CROSS JOIN job INDEXED BY job_by_id
  ON {_HOLDS} AND +job.type_id = m.value->>10
"""  # noqa: S608
_LONG = """
SELECT json_group_array(json_array(job.seq, job.attempt))
FROM json_each(?) AS m CROSS JOIN job INDEXED BY job_by_id ON job.id = m.value
"""
_ALIKE_MIN = 16  # jobs that end alike and are worth a statement: their rows are a third as dear
_STATEMENTS_MAX = 8  # for each SQLite gives the GIL away, and has to win it back


class Ended(NamedTuple):
    """A move, and what it shares with the others of its batch."""

    move: Move
    output_id: int | None
    type_id: int


class Stale(Exception):
    """A lease was lost: the moves must be told apart."""


def finish(tx: Write, lock: str, finished: Sequence[Finished]) -> None:
    """Apply moves; raises Stale when not all of them could be. Then roll back."""
    tally = Tally()
    ended: list[Ended] = []
    for batch in finished:
        if batch.moves:
            ended += _ended(tx, batch, tally)
    _finish(tx, lock, [each for each in ended if each.move.lock == DONE])
    _go_on(tx, lock, [each for each in ended if each.move.lock == FREE])
    tally.apply(tx.db)


def split_stale(
    tx: Write, lock: str, finished: Sequence[Finished]
) -> tuple[list[Finished], set[str]]:
    """Return the moves whose leases hold, and the ids of the others."""
    held: list[Finished] = []
    stale: set[str] = set()
    seen: set[str] = set()
    for batch in finished:
        moves = []
        good = _good(tx, lock, batch)
        for move in batch.moves:
            ids = []
            for id_ in move.ids:
                if (id_, move.attempt) in good and id_ not in seen:
                    ids.append(id_)
                    seen.add(id_)
                else:
                    stale.add(id_)
            if ids:
                moves.append(replace(move, ids=ids))
        if moves:
            held.append(Finished(batch.type, moves, batch.output))
    return held, stale


def _good(tx: Write, lock: str, batch: Finished) -> set[tuple[str, int]]:
    type_id = tx.types.find(tx.db, batch.type)
    asked = [(id_, move.attempt) for id_, move in each_of(batch.moves)]
    query = f"{HELD} AND job.type_id = ?3"
    found = from_json(tx.db.execute(query, (to_json(asked), lock, type_id or 0)).get)
    return {asked[index] for index in found}


def _ended(tx: Write, batch: Finished, tally: Tally) -> list[Ended]:
    """Keep the output of a batch, and count its moves."""
    type_id = tx.types.find(tx.db, batch.type)
    if type_id is None:
        raise Stale
    count = sum(len(move.ids) for move in batch.moves)
    output_id = _keep_output(tx.db, batch.output, count)
    for move in batch.moves:
        assert move.lock in (DONE, FREE), "a move ends a job or frees it"
        tally.add(type_id, kind_of(move.lock, move.status), len(move.ids))
        if move.lock == FREE:
            tally.due(type_id, move.dt)
        if move.hold_until:
            tally.hold(type_id, move.hold_until)
    tally.add(type_id, RUNNING, -count)
    return [Ended(move, output_id, type_id) for move in batch.moves]


def _finish(tx: Write, lock: str, ended: list[Ended]) -> None:
    """End the jobs for good."""
    many, few = _sort_out(ended)
    for alike in many:
        move, output_id, type_id = alike[0]
        ids = [id_ for each in alike for id_ in each.move.ids]
        end = (move.dt, move.status, move.failures, move.crashes, output_id, move.error or None)
        values = (lock, *end, move.result or None, move.attempt, type_id)
        whole = whole_range(ids)
        if whole is not None:
            tx.db.execute(_END_RANGE, (whole[0], *values, whole[1]))
        else:
            tx.db.execute(_END_LISTED, (to_json(ids), *values))
        _check_all(tx.db, len(ids))
    if few:
        packed, blob, count = _pack(few)
        tx.db.execute(_END, (packed, blob, lock))
        _check_all(tx.db, count)


def _sort_out(ended: list[Ended]) -> tuple[list[list[Ended]], list[Ended]]:
    """Put moves that are alike together; return those with a statement of their own, and the
    rest."""
    alike: dict[tuple[object, ...], list[Ended]] = {}
    for each in ended:
        move = each.move
        end = (move.dt, move.status, move.failures, move.crashes, move.result, move.error)
        alike.setdefault((*end, move.attempt, *each[1:]), []).append(each)
    by_size = sorted(alike.values(), key=_jobs, reverse=True)
    count = sum(_jobs(most) >= _ALIKE_MIN for most in by_size[:_STATEMENTS_MAX])
    return by_size[:count], [each for rest in by_size[count:] for each in rest]


def _jobs(ended: list[Ended]) -> int:
    return sum(len(each.move.ids) for each in ended)


def _go_on(tx: Write, lock: str, ended: list[Ended]) -> None:
    """Keep the runs, and let the jobs wait for the next one."""
    if not ended:
        return
    packed, blob, count = _pack(ended)
    tx.db.execute(_ADD_RUNS, (packed, blob, lock, tx.now))
    tx.db.execute(_AGAIN, (packed, None, lock))
    _check_all(tx.db, count)
    long = [id_ for each in ended if each.move.attempt > RUNS_MAX for id_ in each.move.ids]
    if long:
        cut_runs(tx.db, from_json(tx.db.execute(_LONG, (to_json(long),)).get))


def _check_all(db: apsw.Connection, count: int) -> None:
    if db.changes() != count:
        raise Stale


def _keep_output(db: apsw.Connection, output: bytes, count: int) -> int | None:
    if not output:
        return None
    db.execute("INSERT INTO output (refs, tail) VALUES (?, ?)", (count, output))
    return db.last_insert_rowid()


def _pack(ended: list[Ended]) -> tuple[str, bytes, int]:
    """Return a row for each job, their results in one blob, and how many they are."""
    rows = []
    start = 0
    for move, output_id, type_id in ended:
        size = len(move.result)
        rest = (
            move.attempt,
            move.dt,
            move.status,
            move.failures,
            move.crashes,
            start,
            size,
            move.error or None,
            output_id,
            type_id,
        )
        rows += [(id_, *rest) for id_ in move.ids]
        start += size
    return to_json(rows), b"".join([each.move.result for each in ended]) + b"\0", len(rows)
