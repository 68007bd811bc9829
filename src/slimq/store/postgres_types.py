"""The types of a PostgreSQL store: their counts, and when they are due."""

from __future__ import annotations

from collections.abc import Mapping

from slimq.store.counts import KINDS
from slimq.store.postgres_tx import Tx

SHARDS = 8  # rows of one type's counts: nodes that share none do not wait for each other
BYTES = len(KINDS)  # the last count: what its jobs take, with ROW_BYTES for each
ROW_BYTES = 200  # about what a job takes beside its data, with its places in indexes

_COUNT = """
INSERT INTO slimq.type_count AS t (type_id, shard, waiting, running, ok, failed, error, bytes)
SELECT * FROM unnest(%s::int[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[],
  %s::bigint[], %s::bigint[], %s::bigint[]) AS n(type_id) ORDER BY n.type_id
ON CONFLICT (type_id, shard) DO UPDATE SET
  waiting = t.waiting + excluded.waiting, running = t.running + excluded.running,
  ok = t.ok + excluded.ok, failed = t.failed + excluded.failed,
  error = t.error + excluded.error, bytes = t.bytes + excluded.bytes
"""
_HINT = """
UPDATE slimq.type SET next_dt = n.dt
FROM (SELECT * FROM unnest(%s::int[], %s::bigint[]) AS n(type_id, dt) ORDER BY 1) AS n
WHERE type.type_id = n.type_id AND (type.next_dt IS NULL OR type.next_dt > n.dt)
"""
_HOLD = """
UPDATE slimq.type SET hold_until = greatest(hold_until, %s::bigint) WHERE type_id = %s::int
"""


class Tally:
    """What a transaction changes in the counts of types; written at its end, in one step."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._changes: dict[int, list[int]] = {}

    def add(self, type_id: int, kind: int, count: int) -> None:
        """Count `count` more jobs of a kind of `counts.KINDS`, or BYTES, or less."""
        change = self._changes.setdefault(type_id, [0] * (BYTES + 1))
        change[kind] += count

    def apply(self, tx: Tx) -> None:
        changes = [(id_, *change) for id_, change in self._changes.items() if any(change)]
        if changes:
            ids, *counts = map(list, zip(*changes, strict=True))
            tx.do(_COUNT, (ids, [self._shard] * len(ids), *counts))


def hint(tx: Tx, heads: Mapping[int, int]) -> None:
    """Say that jobs of types wait for these times."""
    if heads:
        tx.do(_HINT, (list(heads), list(heads.values())))


def hold(tx: Tx, type_id: int, until: int) -> None:
    tx.do(_HOLD, (until, type_id))
