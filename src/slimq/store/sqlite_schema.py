"""The schema of a SQLite store: checked when a connection is made, and brought up to date.

PRAGMA user_version  the number of the last script that ran
meta.schema_least    the oldest slimq, by the schema it knows, that may work on it
"""

from __future__ import annotations

from pathlib import Path

import apsw

from slimq.errors import StoreUnavailable
from slimq.store.migrate import APPLICATION_ID, Migrations, Schema, Script
from slimq.store.sqlite_clock import StoreClock


def look(db: apsw.Connection) -> Schema:
    """Raises StoreUnavailable when the file belongs to another program."""
    if db.execute("SELECT count(*) FROM sqlite_schema").get == 0:
        return Schema()
    if db.pragma("application_id") != APPLICATION_ID:
        raise StoreUnavailable("it is a database of another program")
    number = int(db.pragma("user_version"))
    least = db.execute("SELECT value FROM meta WHERE name = 'schema_least'").get
    return Schema(number, number if least is None else int(least), True)


def migrate(
    db: apsw.Connection, path: Path, migrations: Migrations, clock: StoreClock
) -> list[Script]:
    """Run the scripts that are missing, in one transaction; return them. Raises
    StoreUnavailable, also while nodes live that could not go on after it; StoreTooNew."""
    db.execute(migrations.dialect.begin)
    try:
        schema = look(db)  # another process may have done it meanwhile
        migrations.check(schema, str(path))
        todo = migrations.missing(schema)
        if todo and migrations.locks_out(schema):
            _refuse_while_alive(db, clock)
        for statement in migrations.statements(schema) if todo else ():
            db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return todo


def _refuse_while_alive(db: apsw.Connection, clock: StoreClock) -> None:
    if clock.finds_alive(db):
        raise StoreUnavailable("running nodes are too old for its next schema: stop them first")
