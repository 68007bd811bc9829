"""Numbered migrations, one folder of SQL for each dialect, applied once and in order."""

from __future__ import annotations

from importlib import resources

import apsw

from slimq.errors import StoreTooNew


def migrations(dialect: str) -> list[tuple[int, str]]:
    """Return (number, SQL) of a dialect, in order."""
    folder = resources.files("slimq.store") / "sql" / dialect
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name[:4]), file.read_text()) for file in files)


def migrate(db: apsw.Connection, dialect: str) -> None:
    """Bring a database up to date. Raises StoreTooNew when a newer slimq made it."""
    steps = migrations(dialect)
    if _version(db) == steps[-1][0]:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db)  # another process may have been faster
        if version > steps[-1][0]:
            rule = f"the store has schema {version}; this slimq knows up to {steps[-1][0]}"
            raise StoreTooNew(f"{rule}: upgrade slimq")
        for number, sql in steps:
            if number > version:
                db.execute(sql)
                db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
    except BaseException:
        if not db.get_autocommit():
            db.execute("ROLLBACK")
        raise


def _version(db: apsw.Connection) -> int:
    version = db.execute("PRAGMA user_version").fetchall()[0][0]
    assert isinstance(version, int), "the pragma gives a number"
    return version
