"""The types of a SQLite store: their numbers, their counts, and when they are due.

`due` and all counts are answered from this table alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import apsw
import msgspec

_APPLY = """
UPDATE type SET
  waiting = waiting + (m.value->>1),
  running = running + (m.value->>2),
  ok      = ok      + (m.value->>3),
  failed  = failed  + (m.value->>4),
  error   = error   + (m.value->>5),
  hold_until = max(hold_until, m.value->>6),
  next_dt = CASE
    WHEN m.value->>8 THEN (SELECT dt FROM job INDEXED BY job_waiting
      WHERE job.type_id = type.type_id AND lock = '' ORDER BY dt LIMIT 1)
    ELSE min(coalesce(next_dt, m.value->>7), coalesce(m.value->>7, next_dt)) END
FROM json_each(?) AS m WHERE type.type_id = m.value->>0
"""
_NUMBERS = """
SELECT json_group_array(json_array(name, type_id)) FROM type
WHERE name IN (SELECT value FROM json_each(?))
"""


class TypeIds:
    """The numbers of types, remembered: a type that has one keeps it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def clear(self) -> None:
        self._ids.clear()
        self._names.clear()

    def find(self, db: apsw.Connection, name: str) -> int | None:
        """Return the number of a type, None when it never had a job."""
        if name not in self._ids:
            self._load(db, [name])
        return self._ids.get(name)

    def make(self, db: apsw.Connection, names: Collection[str]) -> dict[str, int]:
        """Return the numbers of types; those that are new get one."""
        missing = {name for name in names if name not in self._ids}
        if missing:
            db.execute(
                "INSERT OR IGNORE INTO type (name) SELECT value FROM json_each(?)",
                (to_json(sorted(missing)),),
            )
            self._load(db, missing)
        return self._ids

    def name(self, db: apsw.Connection, type_id: int) -> str:
        if type_id not in self._names:
            found = db.execute("SELECT name FROM type WHERE type_id = ?", (type_id,)).get
            self._remember(found, type_id)
        return self._names[type_id]

    def _load(self, db: apsw.Connection, names: Iterable[str]) -> None:
        found = db.execute(_NUMBERS, (to_json(list(names)),)).get
        for name, type_id in from_json(found):
            self._remember(name, type_id)

    def _remember(self, name: str, type_id: int) -> None:
        self._ids[name] = type_id
        self._names[type_id] = name


class Tally:
    """What a transaction changes in the counts of types; written at its end, in one step."""

    # Of a type: waiting, running, ok, failed, error, hold_until, least new dt, look for it
    def __init__(self) -> None:
        self._changes: dict[int, list[int | None]] = {}

    def add(self, type_id: int, kind: int, count: int) -> None:
        """Count `count` more jobs of a kind of `counts.KINDS`, or less."""
        change = self._change(type_id)
        change[kind] = (change[kind] or 0) + count

    def due(self, type_id: int, dt: int) -> None:
        """Say that a job waits for `dt`."""
        change = self._change(type_id)
        least = change[6]
        change[6] = dt if least is None else min(least, dt)

    def took(self, type_id: int) -> None:
        """Say that waiting jobs went: which one is the next must be looked for."""
        self._change(type_id)[7] = 1

    def hold(self, type_id: int, until: int) -> None:
        change = self._change(type_id)
        change[5] = max(change[5] or 0, until)

    def heads(self) -> dict[int, int]:
        """Return for each type the least dt that was said to be new."""
        return {
            id_: least for id_, (*_, least, _took) in self._changes.items() if least is not None
        }

    def apply(self, db: apsw.Connection) -> None:
        if self._changes:
            changes = [(type_id, *change) for type_id, change in self._changes.items()]
            db.execute(_APPLY, (to_json(changes),))

    def _change(self, type_id: int) -> list[int | None]:
        change = self._changes.get(type_id)
        if change is None:
            change = self._changes[type_id] = [0, 0, 0, 0, 0, 0, None, 0]
        return change


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def to_json(value: object) -> str:
    """Return what SQLite's json_each takes: many rows as one value, bound once."""
    return _encode(value).decode()


def from_json(text: str | bytes) -> list:  # type: ignore[type-arg]
    return _decode(text)  # type: ignore[no-any-return]
