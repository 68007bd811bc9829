"""Moves a whole store to another place: a SQLite file to PostgreSQL, and back.

The source is closed first, in a transaction that sees that no lease holds: from then on it
refuses every change, whoever makes it, and nodes go on accepting into their journals, as
they do whenever their store cannot be used. So what is copied is all there is, and nothing
runs meanwhile. All is written to the target in one transaction, read back there, and
compared row by row with what was read; a copy that does not come to its end leaves the
target empty, and opens the source again.

Rows pass in one form, that of `TABLES`, whatever the dialect: a dialect reads and writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import msgspec

from slimq.core.lifecycle import DONE
from slimq.errors import StoreUnavailable
from slimq.store.counts import kind_of

Row = tuple[Any, ...]
TOLD_EVERY = 1_000  # rows

# What stands in a store, in the order in which it is written. The counts of types, and when
# they are due, are not copied: the target counts what it got.
TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("name", "value"),
    "node": ("sysid", "started_at", "seen_at", "about"),
    "journal": ("name", "segment", "offset", "body_offset", "lines"),
    "type": ("type_id", "name", "hold_until"),
    "job": (
        *("seq", "dt", "due_at", "started_at", "type_id", "attempt", "failures", "crashes"),
        *("status", "id", "lock", "parent", "trace", "data"),
    ),
    "done": (
        *("seq", "ended_at", "due_at", "started_at", "output_id", "type_id", "attempt"),
        *("failures", "crashes", "status", "id", "node", "parent", "trace", "error"),
        *("result", "data"),
    ),
    "run": (
        *("seq", "started_at", "ended_at", "output_id", "attempt", "status", "node"),
        *("error", "result"),
    ),
    "output": ("output_id", "refs", "tail"),
    "idempotency": ("type_id", "count", "ingested_at", "key", "first", "digest"),
    "alias": ("sysid", "first", "owner", "count", "ingested_at"),
    "handler_name": ("client", "jobtype", "current", "last"),
    "handler": ("client", "jobtype", "version", "created_at", "lang", "body", "options"),
    "policy": ("client", "jobtype", "paused", "weight", "concurrency", "batch_size"),
}
META = ("control_version", "purged")  # the rest is of the store itself
_LIVE_KIND = tuple(TABLES["job"].index(name) for name in ("type_id", "lock", "status"))
_DONE_KIND = tuple(TABLES["done"].index(name) for name in ("type_id", "status"))

Kinds = dict[tuple[int, int], int]  # how many jobs, by the number of a type and their kind


class End(Protocol):
    """One store, to be read or to be written. Errors are StoreUnavailable."""

    shown: str

    def closed_for(self) -> str:
        """Return where it was moved to; "" when it is open."""

    def close_for(self, target: str) -> int:
        """Refuse all changes from now on, unless leases hold; return how many do. It may be
        closed already."""

    def reopen(self) -> None:
        """Take changes again."""

    def size(self) -> int:
        """Return about how many rows there are; for people who wait."""

    def begin_read(self) -> None:
        """Begin a transaction that sees one state."""

    def begin_write(self) -> None:
        """Begin the one transaction that writes; nobody else can write until its end.
        Raises StoreUnavailable when the store is not empty."""

    def slots(self) -> list[int]:
        """Return in which slots its done jobs lie, see `postgres_tend.py`; the latest first."""

    def make_slots(self, slots: list[int]) -> None: ...

    def rows(self, table: str) -> Iterator[Row]: ...

    def write(self, table: str, rows: Iterable[Row]) -> None: ...

    def count(self) -> None:
        """After the last row: count the jobs of types, and say when they are due."""

    def kinds(self) -> Kinds:
        """Return the counts that the store keeps."""

    def commit(self) -> None: ...

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""


class Content(NamedTuple):
    """What stands in a store: of each table the number of its rows, and a sum over them that
    does not depend on their order; and how many jobs of each type are of each kind."""

    tables: dict[str, tuple[int, int]]
    kinds: Kinds


def move(
    source: End,
    target: End,
    *,
    patience: Callable[[int], bool],
    tell: Callable[[int], None],
) -> Content:
    """Close a store, copy all of it, compare, and commit; return what was copied. When that
    fails the source is open again, and the target as it was.

    While leases hold in the source, `patience` is asked with their number whether to go on
    waiting. `tell` hears how many rows more were written, and then how many were compared.
    """
    _check_way(source, target)
    target.begin_write()
    while held := source.close_for(target.shown):
        if not patience(held):
            rule = f"{held:,} jobs run in {source.shown}: stop the engines first (slimq stop)"
            raise StoreUnavailable(rule)
    try:
        content = _copy(source, target, tell)
    except BaseException:
        source.reopen()
        raise
    target.commit()  # if this fails, nobody knows whether it is done: the source stays closed
    return content


def _check_way(source: End, target: End) -> None:
    closed = source.closed_for()
    if closed and closed != target.shown:
        rule = f"the store {source.shown} was moved to {closed}; see `slimq db reopen`"
        raise StoreUnavailable(rule)
    if target.closed_for():
        raise StoreUnavailable(f"the store {target.shown} was itself moved: {target.closed_for()}")


def _copy(source: End, target: End, tell: Callable[[int], None]) -> Content:
    source.begin_read()
    target.make_slots(source.slots())
    read = _Reading(tell)
    for table in TABLES:
        target.write(table, read.through(table, source.rows(table)))
    target.count()
    written = _Reading(tell)
    for table in TABLES:
        for _ in written.through(table, target.rows(table)):
            pass
    content = read.content()
    difference = _difference(content, written.content(), target.kinds())
    if difference:
        rule = f"the copy in {target.shown} is not like {source.shown}: {difference}"
        raise StoreUnavailable(f"{rule}; nothing was changed, please report it")
    return content


def _difference(read: Content, written: Content, kept: Kinds) -> str:
    for table, there in read.tables.items():
        if written.tables[table] != there:
            return f"table {table} has {there[0]:,} rows there, {written.tables[table][0]:,} here"
    if read.kinds != written.kinds:
        return "jobs are of other types or states"
    return "" if kept == read.kinds else "its counts are not those of its jobs"


class _Reading:
    """Sums up rows while they pass."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._tables: dict[str, tuple[int, int]] = {}
        self._kinds: Counter[tuple[int, int]] = Counter()

    def content(self) -> Content:
        return Content(self._tables, dict(self._kinds))

    def through(self, table: str, rows: Iterator[Row]) -> Iterator[Row]:
        encode = msgspec.msgpack.Encoder().encode
        kinds = self._kinds
        is_live, is_done = table == "job", table == "done"
        count = total = told = 0
        for row in rows:
            count += 1
            total += int.from_bytes(blake2b(encode(row), digest_size=16).digest())
            if is_live:
                type_id, lock, status = (row[place] for place in _LIVE_KIND)
                kinds[type_id, kind_of(lock, status)] += 1
            elif is_done:
                type_id, status = (row[place] for place in _DONE_KIND)
                kinds[type_id, kind_of(DONE, status)] += 1
            if count - told == TOLD_EVERY:
                self._tell(count - told)
                told = count
            yield row
        self._tell(count - told)
        self._tables[table] = (count, total % (1 << 128))


def closed_text(target: str) -> str:
    """Return what a closed store says to who wants to change it."""
    return f"it was closed, to be moved to {target}: point store.url or store.path there"


def not_empty(shown: str, table: str) -> StoreUnavailable:
    return StoreUnavailable(f"the store {shown} is not empty: its table {table} has rows")
