"""A transaction of a PostgreSQL store, and the numbers of types that it knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

_NUMBERS, _TEXTS = {int, type(None)}, {str}
Rows = list[tuple[Any, ...]]
Values = Sequence[Any] | Mapping[str, Any]

_MAKE = """
INSERT INTO slimq.type (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING
"""
_NUMBERS_OF = "SELECT name, type_id FROM slimq.type WHERE name = ANY(%s::text[])"


class Again(Exception):
    """Another transaction was in the way: run this one once more."""


class Tx(NamedTuple):
    """A transaction, or one statement that is its own."""

    db: psycopg.Connection[tuple[Any, ...]]
    types: TypeIds

    def all(self, query: str, values: Values = ()) -> Rows:
        cursor = self.db.cursor(binary=True)
        return cursor.execute(query.encode(), _bound(values)).fetchall()

    def one(self, query: str, values: Values = (), *, prepare: bool | None = None) -> Any:
        """Return the first row, or None. With `prepare` False the statement is planned anew,
        for these values."""
        cursor = self.db.cursor(binary=True)
        return cursor.execute(query.encode(), _bound(values), prepare=prepare).fetchone()

    def do(self, query: str, values: Values = ()) -> int:
        """Return how many rows were changed."""
        cursor = self.db.cursor(binary=True)
        return cursor.execute(query.encode(), _bound(values)).rowcount


def _bound(values: Values) -> Values:
    """Return values as they are sent: a list as one text, ``{1,2,NULL}`` or ``{"a","b"}``,
    which costs a fifth of what a list costs."""
    if isinstance(values, Mapping):
        return {name: _sent(value) for name, value in values.items()}
    return [_sent(value) for value in values]


def _sent(value: object) -> object:
    if type(value) is not list:
        return value
    kinds = set(map(type, value))
    if kinds <= _NUMBERS:
        return "{" + ",".join(map(str, value)).replace("None", "NULL") + "}"
    if kinds == _TEXTS:
        return '{"' + '","'.join(map(_escaped, value)) + '"}'
    return value


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


class TypeIds:
    """The numbers of types, remembered: a type that has one keeps it."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def clear(self) -> None:
        self._ids.clear()
        self._names.clear()

    def find(self, tx: Tx, name: str) -> int | None:
        """Return the number of a type, None when it never had a job."""
        if name not in self._ids:
            self._load(tx, [name])
        return self._ids.get(name)

    def make(self, tx: Tx, names: Collection[str]) -> dict[str, int]:
        """Return the numbers of types; those that are new get one."""
        missing = sorted({name for name in names if name not in self._ids})
        if missing:
            self._load(tx, missing)
            new = [name for name in missing if name not in self._ids]
            if new:  # a number is used up by each try: only for those that are new
                tx.do(_MAKE, (new,))
                self._load(tx, new)
        return self._ids

    def name(self, tx: Tx, type_id: int) -> str:
        if type_id not in self._names:
            row = tx.one("SELECT name FROM slimq.type WHERE type_id = %s::int", (type_id,))
            self._remember(row[0], type_id)
        return self._names[type_id]

    def _load(self, tx: Tx, names: Iterable[str]) -> None:
        for name, type_id in tx.all(_NUMBERS_OF, (list(names),)):
            self._remember(name, type_id)

    def _remember(self, name: str, type_id: int) -> None:
        self._ids[name] = type_id
        self._names[type_id] = name
