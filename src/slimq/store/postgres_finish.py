"""Runs end in a PostgreSQL store: moves are applied where the lease still holds.

One statement for all batches that ended: jobs that are over move from `job` to `done`,
those that go on get a row in `run`. What a lost lease says is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from slimq.core.lifecycle import DONE, DONE_SHIFT_MS, FREE, Move, each_of
from slimq.store.base import Finished
from slimq.store.counts import RUNNING, WAITING
from slimq.store.postgres_marks import cut_runs, drop_outputs
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
_MOVES = """
m AS MATERIALIZED (
  SELECT n.id, n.attempt, n.dt, n.status, n.failures, n.crashes, n.error, n.output_id, n.type_id,
    CASE WHEN n.size > 0 THEN substr(%(results)s::bytea, n.start, n.size) END AS result
  FROM unnest(%(ids)s::text[], %(attempts)s::int[], %(dts)s::bigint[], %(statuses)s::int[],
    %(failures)s::int[], %(crashes)s::int[], %(errors)s::text[], %(outputs)s::bigint[],
    %(types)s::int[], %(starts)s::int[], %(sizes)s::int[])
  AS n(id, attempt, dt, status, failures, crashes, error, output_id, type_id, start, size))
"""
_END = f"""
WITH {_MOVES},
over AS (
  DELETE FROM slimq.job USING m
  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock = %(lock)s
    AND job.type_id = m.type_id
  RETURNING job.seq, m.dt - {DONE_SHIFT_MS} AS ended_at, job.due_at, job.started_at,
    m.output_id, job.type_id, m.attempt, m.failures, m.crashes, m.status, job.id, job.parent,
    job.trace, m.error, m.result, job.data),
kept AS (
  INSERT INTO slimq.done (seq, ended_at, due_at, started_at, output_id, slot, type_id, attempt,
    failures, crashes, status, id, node, parent, trace, error, result, data)
  SELECT seq, ended_at, due_at, started_at, output_id, slimq.slot(ended_at, status), type_id,
    attempt, failures, crashes, status, id, %(lock)s, parent, trace, error, result, data
  FROM over),
counted AS (
  INSERT INTO slimq.type_count AS t (type_id, shard, running, ok, failed, error)
  SELECT type_id, %(shard)s::smallint, -count(*), count(*) FILTER (WHERE status < 300),
    count(*) FILTER (WHERE status >= 300 AND status < 500), count(*) FILTER (WHERE status >= 500)
  FROM over GROUP BY type_id ORDER BY type_id
  ON CONFLICT (type_id, shard) DO UPDATE SET running = t.running + excluded.running,
    ok = t.ok + excluded.ok, failed = t.failed + excluded.failed, error = t.error + excluded.error)
SELECT CASE WHEN (SELECT count(*) FROM over) < (SELECT count(*) FROM m)
  THEN (SELECT array_agg(id) FROM m WHERE id NOT IN (SELECT id FROM over)) END
"""  # noqa: S608
_GO_ON = f"""
WITH {_MOVES},
again AS (
  UPDATE slimq.job SET dt = m.dt, lock = '', status = m.status, failures = m.failures,
    crashes = m.crashes
  FROM m
  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock = %(lock)s
    AND job.type_id = m.type_id
  RETURNING job.seq, job.started_at, m.*),
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
"""  # noqa: S608


class Ended(NamedTuple):
    """A job with its move, and what it shares with the others of its batch."""

    id: str
    move: Move
    output_id: int | None
    type_id: int


def finish(
    tx: Tx, lock: str, finished: Sequence[Finished], shard: int
) -> tuple[set[str], dict[int, int]]:
    """Return the ids of the moves whose lease is lost, and the heads of types by number."""
    outputs = _keep_outputs(tx, finished)
    ended, stale = _ended(tx, lock, finished, outputs)
    lost: set[str] = set()
    over = [each for each in ended if each.move.lock == DONE]
    if over:
        # Planned anew: a plan that was made while few jobs were there would read all of them.
        lost.update(tx.one(_END, _columns(lock, over, shard), prepare=False)[0] or ())
    on = [each for each in ended if each.move.lock == FREE]
    heads = _go_on(tx, lock, on, lost, shard) if on else {}
    if stale or lost:
        _drop_unused(tx, outputs, [each for each in ended if each.id not in lost])
    return stale | lost, heads


def is_simple(finished: Sequence[Finished]) -> bool:
    """Whether `finish` is one statement: all is over, each job once, and nothing was printed."""
    moves = [move for batch in finished for move in batch.moves]
    over = all(move.lock == DONE for move in moves)
    printed = any(batch.output for batch in finished)
    ids = [id_ for move in moves for id_ in move.ids]
    return over and not printed and len(set(ids)) == len(ids)


def _go_on(tx: Tx, lock: str, on: list[Ended], lost: set[str], shard: int) -> dict[int, int]:
    """Let jobs wait for their next run; return the heads of their types."""
    seqs: dict[str, int] = dict(tx.all(_GO_ON, _columns(lock, on, shard)))
    lost.update(each.id for each in on if each.id not in seqs)
    tally = Tally(shard)
    heads: dict[int, int] = {}
    held = [each for each in on if each.id in seqs]
    for _, move, _, type_id in held:
        tally.add(type_id, RUNNING, -1)
        tally.add(type_id, WAITING, 1)
        heads[type_id] = min(heads.get(type_id, move.dt), move.dt)
        if move.hold_until:
            hold(tx, type_id, move.hold_until)
    tally.apply(tx)
    hint(tx, heads)
    cut_runs(tx, [(seqs[each.id], each.move.attempt) for each in held])
    return heads


def _ended(
    tx: Tx, lock: str, finished: Sequence[Finished], outputs: dict[int, int]
) -> tuple[list[Ended], set[str]]:
    """Return the moves, each job once, and the ids that cannot be right."""
    ended: dict[str, Ended] = {}
    stale: set[str] = set()
    kept = iter(outputs)
    for batch in finished:
        type_id = tx.types.find(tx, batch.type)
        output_id = next(kept) if batch.output and batch.moves else None
        for id_, move in each_of(batch.moves):
            assert move.lock in (DONE, FREE), "a move ends a job or frees it"
            if id_ in ended:
                stale.add(id_)
            if type_id is None:
                stale.add(id_)
            elif id_ not in ended or _holds(tx, lock, id_, move.attempt):
                ended[id_] = Ended(id_, move, output_id, type_id)
    return list(ended.values()), stale


def _holds(tx: Tx, lock: str, id_: str, attempt: int) -> bool:
    return tx.one(_HELD, (id_, attempt, lock)) is not None


def _keep_outputs(tx: Tx, finished: Sequence[Finished]) -> dict[int, int]:
    """Return for how many runs each output was kept, in the order of the batches."""
    kept = [batch for batch in finished if batch.output and batch.moves]
    if not kept:
        return {}
    refs = [sum(len(move.ids) for move in batch.moves) for batch in kept]
    tails = [batch.output for batch in kept]
    rows = tx.all(_OUTPUTS, (refs, tails))
    return {output_id: count for (output_id,), count in zip(rows, refs, strict=True)}


def _drop_unused(tx: Tx, outputs: dict[int, int], applied: list[Ended]) -> None:
    """Forget outputs of runs that were not recorded."""
    unused = Counter(outputs)
    unused.subtract(each.output_id for each in applied if each.output_id is not None)
    drop_outputs(tx, list(unused.elements()))


def _columns(lock: str, ended: list[Ended], shard: int) -> dict[str, object]:
    moves = [each.move for each in ended]
    sizes = [len(move.result) for move in moves]
    return {
        "lock": lock,
        "shard": shard,
        "ids": [each.id for each in ended],
        "attempts": [move.attempt for move in moves],
        "dts": [move.dt for move in moves],
        "statuses": [move.status for move in moves],
        "failures": [move.failures for move in moves],
        "crashes": [move.crashes for move in moves],
        "errors": [move.error or None for move in moves],
        "outputs": [each.output_id for each in ended],
        "types": [each.type_id for each in ended],
        "results": b"".join([move.result for move in moves]),
        "starts": [end - size + 1 for end, size in zip(accumulate(sizes), sizes, strict=True)],
        "sizes": sizes,
    }
