"""The schema of a PostgreSQL store: checked when a connection is made, and brought up to date.

meta.schema        the number of the last script that ran
meta.schema_least  the oldest slimq, by the schema it knows, that may work on it
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors

from slimq.core.limits import LEASE_MS
from slimq.errors import StoreUnavailable
from slimq.store.migrate import LOCK, Migrations, Schema, Script

SERVER_MIN = 14  # the oldest PostgreSQL that is still maintained
# From the catalog itself: what to_regclass remembers may be older than the lock that was
# waited for.
_FOUND = """
SELECT n.oid IS NOT NULL, pg_get_userbyid(m.relowner),
  EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid)
FROM (SELECT) AS one LEFT JOIN pg_namespace AS n ON n.nspname = 'slimq'
  LEFT JOIN pg_class AS m ON m.relnamespace = n.oid AND m.relname = 'meta'
"""
_ALIVE = "SELECT count(*) FROM slimq.node WHERE seen_at > slimq.now_ms() - %s::bigint"


def look(db: psycopg.Connection[Any]) -> Schema:
    """Raises StoreUnavailable when the schema `slimq` belongs to another program."""
    made, owner, has_more = _one(db, _FOUND)
    if owner is None:
        if has_more:
            raise StoreUnavailable("its schema `slimq` belongs to another program")
        return Schema(made=made)
    found = dict(db.execute("SELECT name, value FROM slimq.meta").fetchall())
    return Schema(int(found["schema"]), int(found["schema_least"]), True, owner)


def set_up(db: psycopg.Connection[Any], shown: str, migrations: Migrations) -> None:
    """Check the server, and run what is missing. Raises StoreUnavailable, StoreTooNew."""
    schema = check_server(db, shown)
    if migrations.missing(schema):
        migrate(db, shown, migrations)
    else:
        migrations.check(schema, shown)


def check_server(db: psycopg.Connection[Any], shown: str) -> Schema:
    """Return what is there. Raises StoreUnavailable when it can be no store."""
    if db.info.server_version < SERVER_MIN * 10_000:
        raise _cannot(shown, f"PostgreSQL {SERVER_MIN} or newer is needed")
    if db.info.parameter_status("server_encoding") != "UTF8":
        raise _cannot(shown, "the encoding of its database must be UTF8")
    try:
        return look(db)
    except StoreUnavailable as error:
        raise _cannot(shown, error.detail) from None
    except errors.InsufficientPrivilege as error:
        raise _forbidden(shown, error) from error


def migrate(db: psycopg.Connection[Any], shown: str, migrations: Migrations) -> list[Script]:
    """Run the scripts that are missing, in one transaction; return them. Raises
    StoreUnavailable, also while nodes live that could not go on after it; StoreTooNew."""
    try:
        with db.transaction():
            db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            schema = look(db)
            migrations.check(schema, shown)
            todo = migrations.missing(schema)
            if todo and migrations.locks_out(schema):
                _refuse_while_alive(_one(db, _ALIVE, LEASE_MS)[0], shown)
            for statement in migrations.statements(schema) if todo else ():
                db.execute(statement.encode())
            return todo
    except errors.InsufficientPrivilege as error:
        raise _forbidden(shown, error) from error


def _refuse_while_alive(count: int, shown: str) -> None:
    """A node that waits for the end of others accepts meanwhile."""
    if count:
        why = f"{count} running nodes are too old for its next schema: stop them first"
        refusal = _cannot(shown, why)
        refusal.heals = True
        raise refusal


def _one(db: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = db.execute(query.encode(), values or None).fetchone()
    assert row is not None, "it has always one row"
    return row


def _forbidden(shown: str, error: psycopg.Error) -> StoreUnavailable:
    why = f"{error.diag.message_primary}; let a DBA run what `slimq db sql --owner USER` prints"
    return _cannot(shown, why)


def _cannot(shown: str, why: str) -> StoreUnavailable:
    refusal = StoreUnavailable(f"the store {shown} cannot be used: {why}")
    refusal.heals = False
    return refusal
