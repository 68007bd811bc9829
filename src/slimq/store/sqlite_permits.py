"""Limits that hold for all nodes of a SQLite store: who may run how many batches."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.store.base import Ask
from slimq.store.sqlite_file import Write

_OTHERS = "SELECT coalesce(sum(count), 0) FROM permit WHERE name = ? AND lock <> ? AND dt > ?"
_KEEP = "REPLACE INTO permit (name, lock, count, dt) VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM permit WHERE name = ? AND (lock = ? OR dt <= ?)"


def permit(tx: Write, lock: str, asks: Sequence[Ask], lease_ms: int) -> list[int]:
    permits = []
    for ask in asks:
        others = tx.db.execute(_OTHERS, (ask.name, lock, tx.now)).get
        count = ask.permits(others)
        permits.append(count)
        tx.db.execute(_FORGET, (ask.name, lock, tx.now))
        if held := max(count, ask.running):
            tx.db.execute(_KEEP, (ask.name, lock, held, tx.now + lease_ms))
    return permits


def forget(tx: Write, lock: str) -> None:
    """Take back all permits of a node that is gone."""
    tx.db.execute("DELETE FROM permit WHERE lock = ?", (lock,))
