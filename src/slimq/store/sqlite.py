"""The SQLite store: one file in WAL mode, shared by all nodes of a machine.

This module holds the connection: opening, migrating, the clock, and what a failing file
means. What the store can do is in `sqlite_engine.py` and `sqlite_control.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from slimq.core.limits import LEASE_MS
from slimq.errors import StoreUnavailable
from slimq.store.migrate import migrate
from slimq.system.clock import Clock

OLDEST_LIBRARY = 3_051_003  # older ones can corrupt a file when the WAL is reset
BUSY_MS = 3_000


class SqliteConnection:
    """Opens on first use; a failing connection is dropped, and the next use opens anew.

    `durable` says whether a commit survives a power cut by itself (the API's connection)
    or with the next `barrier` (the engine's: what it loses, the journal gives again).
    """

    def __init__(
        self, path: Path, *, clock: Clock, durable: bool, machine: str | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._durable = durable
        self._machine = machine or boot_id()
        self._db: apsw.Connection | None = None
        self._offset = 0
        self._now = 0
        self.type_ids: dict[str, int] = {}

    def now(self) -> int:
        """The machine's nodes share one clock: boot time and an offset kept in the store,
        so that a step of the wall clock moves no lease."""
        if self._db is None:
            with self.use():
                pass
        self._now = max(self._now, self._clock.boot_ms() + self._offset)
        return self._now

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def use(self) -> Iterator[apsw.Connection]:
        """Give the connection; turn what a broken file raises into StoreUnavailable."""
        try:
            yield self._connection()
        except apsw.BusyError as error:
            raise StoreUnavailable("the store is locked by another program") from error
        except apsw.ConstraintError:
            raise
        except (apsw.Error, OSError) as error:
            self._drop()
            raise StoreUnavailable(f"the store cannot be used: {error}") from error

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """One transaction. It never waits as a reader first: that could not be healed."""
        with self.use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if not db.get_autocommit():
                    db.execute("ROLLBACK")
                self.type_ids.clear()
                raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self.use() as db:
            return db.execute(sql, values).fetchall()

    def barrier(self) -> bool:
        with self.use() as db:
            try:
                busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
            except apsw.BusyError:
                return False
            return busy == 0

    def _connection(self) -> apsw.Connection:
        if self._db is not None and not self._path.exists():
            self._drop()  # the file was moved away: what is written would be lost
        if self._db is None:
            self._db = self._open()
        return self._db

    def _drop(self) -> None:
        db, self._db = self._db, None
        self.type_ids.clear()
        if db is not None:
            db.close(True)

    def _open(self) -> apsw.Connection:
        if apsw.SQLITE_VERSION_NUMBER < OLDEST_LIBRARY:
            raise StoreUnavailable("the SQLite library is older than 3.51.3: upgrade apsw")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = apsw.Connection(str(self._path))
        try:
            db.set_busy_timeout(BUSY_MS)
            db.execute("PRAGMA journal_mode=WAL").fetchall()
            db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}").fetchall()
            db.execute("PRAGMA cache_size=-8192").fetchall()
            db.execute("PRAGMA journal_size_limit=67108864").fetchall()
            migrate(db, "sqlite")
            self._anchor(db)
        except BaseException:
            db.close(True)
            raise
        return db

    def _anchor(self, db: apsw.Connection) -> None:
        """Take over the clock of the nodes that live, or set it when there are none."""
        fresh = self._clock.wall_ms() - self._clock.boot_ms()
        db.execute("BEGIN IMMEDIATE")
        known = db.execute("SELECT value FROM meta WHERE name = ?", (f"clock:{self._machine}",))
        row = known.fetchall()
        offset = row[0][0] if row else fresh
        now = self._clock.boot_ms() + offset
        alive = db.execute("SELECT 1 FROM node WHERE seen_at > ? LIMIT 1", (now - LEASE_MS,))
        if not row or not alive.fetchall():
            offset = fresh
            db.execute("DELETE FROM meta WHERE name LIKE 'clock:%'")
            db.execute("INSERT INTO meta VALUES (?, ?)", (f"clock:{self._machine}", offset))
        db.execute("COMMIT")
        self._offset = offset


def boot_id() -> str:
    """Return what tells this boot of this machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
