"""The file of a SQLite store: opened when needed, healed by itself, one transaction at a time.

Every trouble with the file is a StoreUnavailable. When a new connection could help, the
old one is dropped, so that the next call finds out by itself that the cause is gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from slimq.core.limits import QUERY_SECONDS_MAX
from slimq.errors import StartError, StoreTooNew, StoreUnavailable
from slimq.store.base import StoreFull, TooSlow
from slimq.store.migrate import SQLITE, Migrations, Schema, known
from slimq.store.sqlite_clock import StoreClock
from slimq.store.sqlite_schema import look, migrate
from slimq.store.sqlite_turn import POLL_MS, Turnstile, pause
from slimq.store.sqlite_types import TypeIds

LIBRARY_MIN = (
    3,
    51,
    3,
)  # before it, a WAL that is reset can corrupt: sqlite.org/wal.html#walresetbug
CACHE_KIB = 8 * 1024
CHECKPOINT_PAGES = 4000  # 16 MB: an ingest of 10,000 jobs is 3 MB, a checkpoint costs two fsyncs
WAL_KEEP_BYTES = 64 * 1024 * 1024  # a longer file is cut when the WAL starts again
BARRIER_MS = 500  # a barrier is tried again soon, and the engine waits meanwhile
PROGRESS_STEPS = 20_000  # between two looks at the clock: about a millisecond

_LOCKED = "another connection holds its lock for too long"
_CAUSES = {
    apsw.ReadOnlyError: "it cannot be written",
    apsw.FullError: "its disk is full",
    apsw.CantOpenError: "it cannot be opened",
    apsw.IOError: "its disk fails",
    apsw.CorruptError: "it is damaged",
    apsw.NotADBError: "it is not a SQLite database",
}
_WAITING_HELPS = (apsw.BusyError, apsw.LockedError)  # a new connection does not
_BUGS = (apsw.ConstraintError, apsw.MisuseError, apsw.BindingsError, apsw.RangeError)


class StoreLocked(StoreUnavailable):
    """Another connection holds the lock: the file is sound."""


class Write(NamedTuple):
    """A transaction that holds the write lock. `now` is the store's time at its begin."""

    db: apsw.Connection
    now: int
    types: TypeIds


class Read(NamedTuple):
    """A transaction that sees one state of the store."""

    db: apsw.Connection
    now: int
    types: TypeIds


def check_library(version: str) -> None:
    """Raise StartError when SQLite is too old to be trusted with a WAL."""
    if tuple(int(part) for part in version.split(".")[:3]) < LIBRARY_MIN:
        least = ".".join(map(str, LIBRARY_MIN))
        raise StartError(
            f"SQLite {version} can corrupt a store: at least {least} is needed; "
            "install a newer apsw"
        )


class SqliteFile:
    """One connection to the file, made when it is needed. Used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        clock: StoreClock,
        *,
        durable: bool,
        busy_ms: int,
        query_ms: int,
        migrations: Migrations | None = None,
    ) -> None:
        check_library(apsw.sqlite_lib_version())
        self.path = path
        self.clock = clock
        self._synchronous = "FULL" if durable else "NORMAL"
        self._busy_ms = self._patience_ms = busy_ms
        self._query_ms = query_ms
        self._migrations = migrations or known(SQLITE)
        self._db: apsw.Connection | None = None
        self._opened: tuple[int, int] | None = None  # device and inode
        self._types = TypeIds()
        self._turnstile = Turnstile(path.with_name(f"{path.name}-turn"))

    @contextmanager
    def write(self, *, bounded: bool = False) -> Iterator[Write]:
        """Run one transaction; all of it or nothing. Raises StoreUnavailable, when it is
        `bounded` also when it takes too long."""
        with self._guard() as db, self._deadline(db) if bounded else nullcontext():
            with self._turn(self._busy_ms):
                db.execute("BEGIN IMMEDIATE")
            self.clock.adopt(db)
            yield Write(db, self.clock.now(), self._types)
            db.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[Read]:
        """Ask with a time limit. Raises StoreUnavailable, also when it takes too long."""
        with self._guard() as db, self._deadline(db):
            db.execute("BEGIN")
            yield Read(db, self.clock.now(), self._types)
            db.execute("COMMIT")

    def value(self, query: str) -> Any:
        """Return what one statement says; alone it needs no transaction. Raises
        StoreUnavailable."""
        with self._guard() as db:
            return db.execute(query).get

    def now(self) -> int:
        if not self.clock.known:
            with self._guard():
                pass
        return self.clock.now()

    def checkpoint(self) -> bool:
        """Write the whole WAL to the file and fsync both; return False when a reader or
        writer is in the way."""
        self._patience_ms = min(self._busy_ms, BARRIER_MS)
        try:
            with self._guard() as db, self._turn(self._patience_ms):
                db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except StoreLocked:
            return False
        finally:
            self._patience_ms = self._busy_ms
        return True

    def close(self) -> None:
        """Close the connection. A later call opens it again."""
        db, self._db, self._opened = self._db, None, None
        self._types.clear()
        self._turnstile.close()
        if db is not None:
            db.close(force=True)

    @contextmanager
    def _guard(self) -> Iterator[apsw.Connection]:
        try:
            db = self._connected()
            yield db
        except apsw.Error as error:
            self._undo(error)
            if isinstance(error, _BUGS) and not _is_closed(error):
                raise
            raise self._unavailable(error) from error
        except OSError as error:
            self._undo(error)
            raise self._cannot(f"{error.strerror}") from error
        except BaseException as error:
            self._undo(error)
            raise

    @contextmanager
    def _turn(self, wait_ms: int) -> Iterator[None]:
        entered = self._turnstile.enter(wait_ms)  # if not: it protects nothing, go on
        try:
            yield
        finally:
            if entered:
                self._turnstile.leave()

    def _wait(self, count: int) -> bool:
        """Called by SQLite when another connection has the lock it needs."""
        pause()
        return count * POLL_MS < self._patience_ms

    def _undo(self, error: BaseException) -> None:
        self._types.clear()  # ids that this transaction gave are not in the file
        if self._db is None:
            return
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except apsw.Error:  # then dropping the connection is what undoes it
            self._drop()
        if isinstance(error, apsw.Error) and not isinstance(
            error, (*_WAITING_HELPS, *_BUGS, apsw.InterruptError)
        ):
            self._drop()

    def _drop(self) -> None:
        try:
            self.close()
        except apsw.Error:  # it could not write its last checkpoint; the next one will
            pass

    def _unavailable(self, error: apsw.Error) -> StoreUnavailable:
        if isinstance(error, apsw.InterruptError):
            return TooSlow(
                f"the question took longer than {self._query_ms} ms: narrow it, for example "
                "by client, jobtype, state or time"
            )
        if _is_closed(error):
            return self._cannot(f"{error}".removeprefix("ConstraintError: "))
        if isinstance(error, _WAITING_HELPS):
            return self._cannot(_LOCKED, StoreLocked)
        kind = StoreFull if isinstance(error, apsw.FullError) else StoreUnavailable
        return self._cannot(f"{_CAUSES.get(type(error), 'SQLite refuses it')} ({error})", kind)

    def _cannot(
        self, why: str, kind: type[StoreUnavailable] = StoreUnavailable
    ) -> StoreUnavailable:
        return kind(f"the store {self.path} cannot be used: {why}")

    @contextmanager
    def _deadline(self, db: apsw.Connection) -> Iterator[None]:
        end = self.clock.boot_ms() + self._query_ms
        db.set_progress_handler(lambda: self.clock.boot_ms() >= end, PROGRESS_STEPS)
        try:
            yield
        finally:
            if self._db is db:
                db.set_progress_handler(None)

    def _connected(self) -> apsw.Connection:
        identity = _identity(self.path)
        if self._db is not None and identity == self._opened:
            return self._db
        had_one = self._db is not None or self.clock.known
        self._drop()
        if identity is None:
            if had_one:
                raise self._cannot("its file is gone; put it back, or restart for an empty one")
            _create(self.path)
            identity = _identity(self.path)
        self._db = self._open()
        self._opened = identity
        return self._db

    def _open(self) -> apsw.Connection:
        db = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            self._prepare(db)
        except BaseException:
            db.close(force=True)
            raise
        return db

    def _prepare(self, db: apsw.Connection) -> None:
        if db.readonly("main"):
            raise self._cannot("it cannot be written")
        db.set_busy_handler(self._wait)
        schema = self._schema(db)
        self._migrations.check(schema, str(self.path))
        if self._migrations.missing(schema) or db.pragma("journal_mode") != "wal":
            self._set_up(db)
        db.pragma("synchronous", self._synchronous)
        db.pragma("cache_size", -CACHE_KIB)
        db.pragma("temp_store", "memory")
        db.pragma("journal_size_limit", WAL_KEEP_BYTES)
        db.wal_autocheckpoint(CHECKPOINT_PAGES)
        self.clock.start(db)

    def _schema(self, db: apsw.Connection) -> Schema:
        try:
            return look(db)
        except StoreUnavailable as error:
            raise self._cannot(error.detail) from None

    def _set_up(self, db: apsw.Connection) -> None:
        with self._turn(self._busy_ms):  # of two that switch to WAL at once one is refused
            try:
                migrate(db, self.path, self._migrations, self.clock)
            except StoreTooNew:
                raise
            except StoreUnavailable as error:
                raise self._cannot(error.detail) from None
            if db.pragma("journal_mode", "wal") != "wal":
                raise self._cannot("its file system has no shared memory for a WAL")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_closed(error: apsw.Error) -> bool:
    """Return whether a trigger refused it, see `moving_sqlite.py`."""
    return bool(getattr(error, "extendedresult", 0) == apsw.SQLITE_CONSTRAINT_TRIGGER)


def _create(path: Path) -> None:
    """Make an empty file that only its owner can read.

    It is never opened here: closing it would drop the locks that SQLite holds on it for
    another connection of this process (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.mknod(path, stat.S_IFREG | 0o600)
    except FileExistsError:
        pass


QUERY_MS = int(QUERY_SECONDS_MAX * 1000)
