"""Runs end in a SQLite store: moves are applied where the lease still holds.

The run that ends a job is written into the job's own row; a run after which the job goes
on gets a row in `run`. Nearly always every lease holds: then a batch is one UPDATE.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from slimq.core.lifecycle import DONE, FREE, Move
from slimq.core.limits import RUNS_MAX
from slimq.store.base import Finished
from slimq.store.counts import RUNNING, kind_of
from slimq.store.sqlite_claim import HELD
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_marks import cut_runs
from slimq.store.sqlite_types import Tally, from_json, to_json

# Of a move: 0 id, 1 attempt, 2 dt, 3 status, 4 failures, 5 crashes, 6 where its result
# starts in the blob, 7 how long it is, 8 error.
_RESULT = "CASE WHEN m.value->>7 THEN substr(?2, (m.value->>6) + 1, m.value->>7) END"
_HOLDS = (
    "job.id = m.value->>0 AND job.lock = ?3 AND job.attempt = m.value->>1 "
    "AND ?3 NOT IN ('', '__done')"
)
_END = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '__done', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5, started_at = ?4, output_id = ?5,
  node = ?3, error = m.value->>8, result = {_RESULT}
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = ?6
"""  # noqa: S608
_AGAIN = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = ?2
"""  # noqa: S608
_ADD_RUNS = f"""
REPLACE INTO run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT job.seq, job.attempt, m.value->>3, ?4, ?5, ?6, ?3, m.value->>8, {_RESULT}
FROM json_each(?1) AS m CROSS JOIN job INDEXED BY job_by_id ON {_HOLDS} AND +job.type_id = ?7
"""  # noqa: S608
_LONG = """
SELECT json_group_array(json_array(job.seq, job.attempt))
FROM json_each(?) AS m CROSS JOIN job INDEXED BY job_by_id ON job.id = m.value
"""


class Stale(Exception):
    """A lease was lost: the moves must be told apart."""


def finish(tx: Write, lock: str, finished: Sequence[Finished]) -> None:
    """Apply moves; raises Stale when not all of them could be. Then roll back."""
    tally = Tally()
    for batch in finished:
        type_id = tx.types.find(tx.db, batch.type)
        if type_id is None:
            raise Stale
        if batch.moves:
            _finish(tx, lock, batch, type_id, tally)
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
        for index, move in enumerate(batch.moves):
            if index in good and move.id not in seen:
                moves.append(move)
                seen.add(move.id)
            else:
                stale.add(move.id)
        if moves:
            held.append(Finished(batch.type, batch.started_at, moves, batch.output))
    return held, stale


def _good(tx: Write, lock: str, batch: Finished) -> set[int]:
    type_id = tx.types.find(tx.db, batch.type)
    asked = to_json([(move.id, move.attempt) for move in batch.moves])
    query = f"{HELD} AND job.type_id = ?3"
    return set(from_json(tx.db.execute(query, (asked, lock, type_id or 0)).get))


def _finish(tx: Write, lock: str, batch: Finished, type_id: int, tally: Tally) -> None:
    output_id = _keep_output(tx.db, batch)
    ended = [move for move in batch.moves if move.lock == DONE]
    again = [move for move in batch.moves if move.lock == FREE]
    assert len(ended) + len(again) == len(batch.moves), "a move ends a job or frees it"
    if ended:
        packed, blob = _pack(ended)
        values = (packed, blob, lock, batch.started_at, output_id, type_id)
        tx.db.execute(_END, values)
        _check_all(tx.db, ended)
    if again:
        _go_on(tx, lock, batch, again, (output_id, type_id))
    for move in batch.moves:
        tally.add(type_id, kind_of(move.lock, move.status), 1)
        if move.lock == FREE:
            tally.due(type_id, move.dt)
        if move.hold_until:
            tally.hold(type_id, move.hold_until)
    tally.add(type_id, RUNNING, -len(batch.moves))


def _go_on(
    tx: Write, lock: str, batch: Finished, again: list[Move], numbers: tuple[int | None, int]
) -> None:
    output_id, type_id = numbers
    packed, blob = _pack(again)
    tx.db.execute(_ADD_RUNS, (packed, blob, lock, batch.started_at, tx.now, output_id, type_id))
    tx.db.execute(_AGAIN, (packed, type_id, lock))
    _check_all(tx.db, again)
    long = [move.id for move in again if move.attempt > RUNS_MAX]
    if long:
        cut_runs(tx.db, from_json(tx.db.execute(_LONG, (to_json(long),)).get))


def _check_all(db: apsw.Connection, moves: list[Move]) -> None:
    if db.changes() != len(moves):
        raise Stale


def _keep_output(db: apsw.Connection, batch: Finished) -> int | None:
    if not batch.output:
        return None
    db.execute("INSERT INTO output (refs, tail) VALUES (?, ?)", (len(batch.moves), batch.output))
    return db.last_insert_rowid()


def _pack(moves: list[Move]) -> tuple[str, bytes]:
    rows = []
    start = 0
    for move in moves:
        size = len(move.result)
        rows.append(
            (
                move.id,
                move.attempt,
                move.dt,
                move.status,
                move.failures,
                move.crashes,
                start,
                size,
                move.error or None,
            )
        )
        start += size
    return to_json(rows), b"".join([move.result for move in moves]) + b"\0"
