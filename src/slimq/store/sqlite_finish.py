"""Runs end in a SQLite store: moves are applied where the lease still holds.

The run that ends a job is written into the job's own row; a run after which the job goes
on gets a row in `run`. Nearly always every lease holds: then all batches are one UPDATE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
# starts in the blob, 7 how long it is, 8 error, 9 started_at, 10 output_id, 11 type_id.
_RESULT = "CASE WHEN m.value->>7 THEN substr(?2, (m.value->>6) + 1, m.value->>7) END"
_HOLDS = (
    "job.id = m.value->>0 AND job.lock = ?3 AND job.attempt = m.value->>1 "
    "AND ?3 NOT IN ('', '__done')"
)
_END = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '__done', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5, started_at = m.value->>9,
  output_id = m.value->>10, node = ?3, error = m.value->>8, result = {_RESULT}
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = m.value->>11
"""  # noqa: S608
_AGAIN = f"""
UPDATE job INDEXED BY job_by_id SET dt = m.value->>2, lock = '', status = m.value->>3,
  failures = m.value->>4, crashes = m.value->>5
FROM json_each(?1) AS m WHERE {_HOLDS} AND +job.type_id = m.value->>11
"""  # noqa: S608
_ADD_RUNS = f"""
REPLACE INTO run (seq, attempt, status, started_at, ended_at, output_id, node, error, result)
SELECT job.seq, job.attempt, m.value->>3, m.value->>9, ?4, m.value->>10, ?3, m.value->>8, {_RESULT}
FROM json_each(?1) AS m CROSS JOIN job INDEXED BY job_by_id
  ON {_HOLDS} AND +job.type_id = m.value->>11
"""  # noqa: S608
_LONG = """
SELECT json_group_array(json_array(job.seq, job.attempt))
FROM json_each(?) AS m CROSS JOIN job INDEXED BY job_by_id ON job.id = m.value
"""


class Ended(NamedTuple):
    """A move, and what it shares with the others of its batch."""

    move: Move
    started_at: int
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


def _ended(tx: Write, batch: Finished, tally: Tally) -> list[Ended]:
    """Keep the output of a batch, and count its moves."""
    type_id = tx.types.find(tx.db, batch.type)
    if type_id is None:
        raise Stale
    output_id = _keep_output(tx.db, batch)
    for move in batch.moves:
        assert move.lock in (DONE, FREE), "a move ends a job or frees it"
        tally.add(type_id, kind_of(move.lock, move.status), 1)
        if move.lock == FREE:
            tally.due(type_id, move.dt)
        if move.hold_until:
            tally.hold(type_id, move.hold_until)
    tally.add(type_id, RUNNING, -len(batch.moves))
    return [Ended(move, batch.started_at, output_id, type_id) for move in batch.moves]


def _finish(tx: Write, lock: str, ended: list[Ended]) -> None:
    """End the jobs for good."""
    if ended:
        tx.db.execute(_END, (*_pack(ended), lock))
        _check_all(tx.db, ended)


def _go_on(tx: Write, lock: str, ended: list[Ended]) -> None:
    """Keep the runs, and let the jobs wait for the next one."""
    if not ended:
        return
    packed, blob = _pack(ended)
    tx.db.execute(_ADD_RUNS, (packed, blob, lock, tx.now))
    tx.db.execute(_AGAIN, (packed, None, lock))
    _check_all(tx.db, ended)
    long = [each.move.id for each in ended if each.move.attempt > RUNS_MAX]
    if long:
        cut_runs(tx.db, from_json(tx.db.execute(_LONG, (to_json(long),)).get))


def _check_all(db: apsw.Connection, ended: list[Ended]) -> None:
    if db.changes() != len(ended):
        raise Stale


def _keep_output(db: apsw.Connection, batch: Finished) -> int | None:
    if not batch.output:
        return None
    db.execute("INSERT INTO output (refs, tail) VALUES (?, ?)", (len(batch.moves), batch.output))
    return db.last_insert_rowid()


def _pack(ended: list[Ended]) -> tuple[str, bytes]:
    rows = []
    start = 0
    for move, started_at, output_id, type_id in ended:
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
                started_at,
                output_id,
                type_id,
            )
        )
        start += size
    return to_json(rows), b"".join([each.move.result for each in ended]) + b"\0"
