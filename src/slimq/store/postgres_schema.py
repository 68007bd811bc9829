"""The schema of a PostgreSQL store: checked when a connection is made, and brought up to date.

    meta.schema        the number of the last script that ran
    meta.schema_least  the oldest slimq, by the schema it knows, that may work on it

So the nodes of two adjacent versions may share a store while they are replaced one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from slimq.errors import StoreTooNew, StoreUnavailable
from slimq.store.migrate import Script, scripts

SERVER_MIN = 14  # the oldest PostgreSQL that is still maintained
_LOCK = 0x736C6D71  # "slmq"; held to the end of the transaction, no longer
# From the catalog itself: what to_regclass remembers may be older than the lock that was
# waited for.
_FOUND = """
SELECT (SELECT oid FROM pg_class WHERE relnamespace = n.oid AND relname = 'meta'), n.oid
FROM (SELECT) AS one LEFT JOIN pg_namespace AS n ON n.nspname = 'slimq'
"""


class Schema(NamedTuple):
    """What there is: `number` is 0 when there is nothing yet."""

    number: int
    least: int


def latest() -> int:
    return scripts("postgres")[-1].number


def read_schema(db: psycopg.Connection[Any]) -> Schema:
    """Raises StoreUnavailable when the schema `slimq` belongs to another program."""
    row = db.execute(_FOUND).fetchone()
    assert row is not None, "a SELECT without FROM has one row"
    if row[1] is None:
        return Schema(0, 0)
    if row[0] is None:
        raise StoreUnavailable("its schema `slimq` belongs to another program")
    found = dict(db.execute("SELECT name, value FROM slimq.meta").fetchall())
    return Schema(int(found["schema"]), int(found["schema_least"]))


def missing(db: psycopg.Connection[Any]) -> list[Script]:
    """Return the scripts that are still to be run."""
    number = read_schema(db).number
    return [script for script in scripts("postgres") if script.number > number]


def set_up(db: psycopg.Connection[Any], shown: str) -> None:
    """Check the server, and run what is missing. Raises StoreUnavailable, StoreTooNew."""
    if db.info.server_version < SERVER_MIN * 10_000:
        raise _cannot(shown, f"PostgreSQL {SERVER_MIN} or newer is needed")
    if db.info.parameter_status("server_encoding") != "UTF8":
        raise _cannot(shown, "the encoding of its database must be UTF8")
    try:
        schema = read_schema(db)
    except StoreUnavailable as error:
        raise _cannot(shown, error.detail) from None
    if schema.number < latest():
        migrate(db, shown)
    elif schema.least > latest():
        raise StoreTooNew(
            f"the store {shown} has schema {schema.number}, which slimq with schema "
            f"{schema.least} or later can use, this slimq knows {latest()}: run the newer version"
        )


def migrate(db: psycopg.Connection[Any], shown: str) -> list[int]:
    """Run the scripts that are missing, in one transaction; return their numbers."""
    try:
        with db.transaction():
            db.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")  # of several nodes, one does it
            todo = missing(db)
            for script in todo:
                db.execute(script.sql.encode())
            return [script.number for script in todo]
    except errors.InsufficientPrivilege as error:
        why = f"{error.diag.message_primary}; let its owner run what `slimq db sql` prints"
        raise _cannot(shown, why) from error


def _cannot(shown: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"the store {shown} cannot be used: {why}")
