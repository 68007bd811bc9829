"""Runs end in a PostgreSQL store: moves are applied where the lease still holds.

One statement for all batches that ended: jobs that are over move from `job` to `done`,
those that go on get a row in `run`. What a lost lease says is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimq.core.lifecycle import DONE, DONE_SHIFT_MS, FREE, Move
from slimq.store.base import Finished
from slimq.store.counts import RUNNING, kind_of
from slimq.store.postgres_marks import cut_runs
from slimq.store.postgres_tx import Tx
from slimq.store.postgres_types import Tally, hint, hold

_OUTPUTS = """
INSERT INTO slimq.output (refs, tail)
SELECT n.refs, n.tail FROM unnest(%s::int[], %s::bytea[]) WITH ORDINALITY AS n(refs, tail, place)
ORDER BY n.place RETURNING output_id
"""
_HELD = """
SELECT 1 FROM slimq.job WHERE id = %s AND attempt = %s::int AND lock = %s FOR UPDATE
"""
_END = f"""
WITH m AS MATERIALIZED (
  SELECT * FROM unnest(%(ids)s::text[], %(attempts)s::int[], %(dts)s::bigint[],
    %(statuses)s::int[], %(failures)s::int[], %(crashes)s::int[], %(results)s::bytea[],
    %(errors)s::text[], %(started)s::bigint[], %(outputs)s::bigint[], %(types)s::int[])
  AS m(id, attempt, dt, status, failures, crashes, result, error, started_at, output_id, type_id)),
over AS (
  DELETE FROM slimq.job USING m
  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock = %(lock)s
    AND job.type_id = m.type_id
  RETURNING job.seq, m.dt - {DONE_SHIFT_MS} AS ended_at, job.due_at, m.started_at, m.output_id,
    job.type_id, m.attempt, m.failures, m.crashes, m.status, job.id, job.parent, job.trace,
    m.error, m.result, job.data),
kept AS (
  INSERT INTO slimq.done (seq, ended_at, due_at, started_at, output_id, slot, type_id, attempt,
    failures, crashes, status, id, node, parent, trace, error, result, data)
  SELECT seq, ended_at, due_at, started_at, output_id, slimq.slot(ended_at, status), type_id,
    attempt, failures, crashes, status, id, %(lock)s, parent, trace, error, result, data
  FROM over)
SELECT id FROM over
"""  # noqa: S608
_GO_ON = """
WITH m AS MATERIALIZED (
  SELECT * FROM unnest(%(ids)s::text[], %(attempts)s::int[], %(dts)s::bigint[],
    %(statuses)s::int[], %(failures)s::int[], %(crashes)s::int[], %(results)s::bytea[],
    %(errors)s::text[], %(started)s::bigint[], %(outputs)s::bigint[], %(types)s::int[])
  AS m(id, attempt, dt, status, failures, crashes, result, error, started_at, output_id, type_id)),
again AS (
  UPDATE slimq.job SET dt = m.dt, lock = '', status = m.status, failures = m.failures,
    crashes = m.crashes
  FROM m
  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock = %(lock)s
    AND job.type_id = m.type_id
  RETURNING job.seq, m.*),
kept AS (
  INSERT INTO slimq.run (seq, attempt, status, started_at, ended_at, output_id, node, error,
    result)
  SELECT seq, attempt, status, started_at, slimq.now_ms(), output_id, %(lock)s, error, result
  FROM again
  ON CONFLICT (seq, attempt) DO UPDATE SET status = excluded.status,
    started_at = excluded.started_at, ended_at = excluded.ended_at,
    output_id = excluded.output_id, node = excluded.node, error = excluded.error,
    result = excluded.result)
SELECT id, seq FROM again
"""


class Ended(NamedTuple):
    """A move, and what it shares with the others of its batch."""

    move: Move
    started_at: int
    output_id: int | None
    type_id: int


def finish(
    tx: Tx, lock: str, finished: Sequence[Finished], shard: int
) -> tuple[set[str], dict[int, int]]:
    """Return the ids of the moves whose lease is lost, and the heads of types by number."""
    ended, stale = _ended(tx, lock, finished)
    over = [each for each in ended if each.move.lock == DONE]
    on = [each for each in ended if each.move.lock == FREE]
    applied = {id_ for (id_,) in tx.all(_END, _columns(lock, over))} if over else set()
    seqs: dict[str, int] = dict(tx.all(_GO_ON, _columns(lock, on))) if on else {}
    tally = Tally(shard)
    heads: dict[int, int] = {}
    for each in ended:
        move = each.move
        if move.id not in applied and move.id not in seqs:
            stale.add(move.id)
            continue
        tally.add(each.type_id, RUNNING, -1)
        tally.add(each.type_id, kind_of(move.lock, move.status), 1)
        if move.lock == FREE:
            heads[each.type_id] = min(heads.get(each.type_id, move.dt), move.dt)
        if move.hold_until:
            hold(tx, each.type_id, move.hold_until)
    tally.apply(tx)
    hint(tx, heads)
    cut_runs(tx, [(seqs[each.move.id], each.move.attempt) for each in on if each.move.id in seqs])
    return stale, heads


def _ended(tx: Tx, lock: str, finished: Sequence[Finished]) -> tuple[list[Ended], set[str]]:
    """Keep the outputs; return the moves, each job once, and the ids that cannot be right."""
    ended: dict[str, Ended] = {}
    stale: set[str] = set()
    outputs = iter(_keep_outputs(tx, finished))
    for batch in finished:
        type_id = tx.types.find(tx, batch.type)
        output_id = next(outputs) if batch.output and batch.moves else None
        for move in batch.moves:
            assert move.lock in (DONE, FREE), "a move ends a job or frees it"
            if move.id in ended:
                stale.add(move.id)
            if type_id is None:
                stale.add(move.id)
            elif move.id not in ended or _holds(tx, lock, move):
                ended[move.id] = Ended(move, batch.started_at, output_id, type_id)
    return list(ended.values()), stale


def _holds(tx: Tx, lock: str, move: Move) -> bool:
    return tx.one(_HELD, (move.id, move.attempt, lock)) is not None


def _keep_outputs(tx: Tx, finished: Sequence[Finished]) -> list[int]:
    kept = [batch for batch in finished if batch.output and batch.moves]
    if not kept:
        return []
    refs, tails = [len(batch.moves) for batch in kept], [batch.output for batch in kept]
    return [output_id for (output_id,) in tx.all(_OUTPUTS, (refs, tails))]


def _columns(lock: str, ended: list[Ended]) -> dict[str, object]:
    moves = [each.move for each in ended]
    return {
        "lock": lock,
        "ids": [move.id for move in moves],
        "attempts": [move.attempt for move in moves],
        "dts": [move.dt for move in moves],
        "statuses": [move.status for move in moves],
        "failures": [move.failures for move in moves],
        "crashes": [move.crashes for move in moves],
        "results": [move.result or None for move in moves],
        "errors": [move.error or None for move in moves],
        "started": [each.started_at for each in ended],
        "outputs": [each.output_id for each in ended],
        "types": [each.type_id for each in ended],
    }
