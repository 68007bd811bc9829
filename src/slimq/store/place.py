"""Where a store is, and what is there: looked at from outside, without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw

from slimq.core.setting import without_password
from slimq.errors import ConfigError, StoreUnavailable
from slimq.store import sqlite_schema
from slimq.store.migrate import POSTGRES, SQLITE, Dialect, Migrations, Schema, known
from slimq.store.moving import End
from slimq.store.moving_sqlite import SqliteEnd
from slimq.store.opening import Store, open_store
from slimq.system.clock import SystemClock

BUSY_MS = 10_000


class Place(NamedTuple):
    """A PostgreSQL, or a file when `url` is empty."""

    url: str
    path: Path = Path()

    @property
    def shown(self) -> str:
        return without_password(self.url) if self.url else str(self.path.absolute())

    @property
    def dialect(self) -> Dialect:
        return POSTGRES if self.url else SQLITE

    @property
    def migrations(self) -> Migrations:
        return known(self.dialect)

    def open(self) -> Store:
        return open_store(self.url, self.path, clock=SystemClock(), durable=True)


def place_of(text: str) -> Place:
    """Return the place that a URL or the path of a file means. Raises ConfigError."""
    if text.startswith(("postgresql://", "postgres://")):
        return Place(text)
    if "://" in text or not text:
        raise ConfigError(f"a store is a file or a URL postgresql://..., not {text!r}")
    return Place("", Path(text))


def look(place: Place) -> Schema:
    """Return what a store has. Raises StoreUnavailable, ConfigError."""
    return _look_at_server(place) if place.url else _look_at_file(place)


def state_of(place: Place, schema: Schema) -> str:
    """Return how a schema stands to what this slimq knows."""
    migrations = place.migrations
    if schema.number == 0:
        return "empty"
    if migrations.missing(schema):
        return "old"
    if schema.number == migrations.latest:
        return "current"
    return "newer" if schema.least <= migrations.latest else "too new"


def migrate(place: Place) -> Schema:
    """Bring a store up to date as a node does at its start; return what it has then. Raises
    StoreUnavailable, StoreTooNew."""
    store = place.open()
    try:
        store.now()
    finally:
        store.close()
    return look(place)


def open_end(place: Place) -> End:
    """Return a store as one end of a move. It must be there. Raises StoreUnavailable."""
    if not place.url:
        return SqliteEnd(place.path, SystemClock())
    place.open().close()  # says what is missing when there is no driver
    from slimq.store.moving_postgres import PostgresEnd

    return PostgresEnd(place.url)


def _look_at_file(place: Place) -> Schema:
    try:
        if not place.path.exists():
            return Schema()
        db = apsw.Connection(str(place.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(BUSY_MS)
            return sqlite_schema.look(db)
        finally:
            db.close()
    except (OSError, apsw.Error, StoreUnavailable) as error:
        raise StoreUnavailable(f"the store {place.shown} cannot be used: {error}") from error


def _look_at_server(place: Place) -> Schema:
    place.open().close()  # says what is missing when there is no driver
    import psycopg

    from slimq.store.postgres_link import connect
    from slimq.store.postgres_schema import check_server
    from slimq.store.postgres_trouble import said

    try:
        with connect(place.url) as db:
            return check_server(db, place.shown)
    except psycopg.Error as error:
        why = said(error, place.url)
        raise StoreUnavailable(f"the store {place.shown} cannot be used: {why}") from error
