"""Limits that hold for all nodes of a PostgreSQL store: who may run how many batches.

Nodes ask one after the other: of two at a time neither would see what the other is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from slimq.store.base import Ask
from slimq.store.postgres_claim import LAZY
from slimq.store.postgres_tx import Tx

_IN_TURN = f"""
SELECT value, ({LAZY}) FROM slimq.meta WHERE name = 'permits' FOR UPDATE
"""  # noqa: S608
_OTHERS = """
SELECT a.n, coalesce(sum(p.count), 0)::int FROM unnest(%s::text[]) WITH ORDINALITY AS a(name, n)
LEFT JOIN slimq.permit AS p ON p.name = a.name AND p.lock <> %s AND p.dt > slimq.now_ms()
GROUP BY a.n ORDER BY a.n
"""
_KEEP = """
INSERT INTO slimq.permit (name, lock, count, dt)
SELECT name, %s, count, slimq.now_ms() + %s::bigint
FROM unnest(%s::text[], %s::int[]) AS a(name, count) WHERE count > 0
ON CONFLICT (name, lock) DO UPDATE SET count = excluded.count, dt = excluded.dt
"""
_GIVE_BACK = """
DELETE FROM slimq.permit USING unnest(%s::text[], %s::int[]) AS a(name, count)
WHERE permit.name = a.name AND (
  permit.lock = %s AND a.count = 0 OR permit.lock <> %s AND permit.dt <= slimq.now_ms())
"""


def permit(tx: Tx, lock: str, asks: Sequence[Ask], lease_ms: int) -> list[int]:
    names = [ask.name for ask in asks]
    tx.one(_IN_TURN)
    others = tx.all(_OTHERS, (names, lock))
    permits = [ask.permits(count) for ask, (_, count) in zip(asks, others, strict=True)]
    held = [max(count, ask.running) for ask, count in zip(asks, permits, strict=True)]
    tx.do(_KEEP, (lock, lease_ms, names, held))
    tx.do(_GIVE_BACK, (names, held, lock, lock))
    return permits


def forget(tx: Tx, lock: str) -> None:
    """Take back all permits of a node that is gone."""
    tx.do("DELETE FROM slimq.permit WHERE lock = %s", (lock,))
