"""The connection of a PostgreSQL store: opened when needed, healed by itself.

Nothing depends on the session: no temporary tables, no session locks, no settings that
outlive a transaction. So a pooler that gives each transaction another session (PgBouncer)
may stand between, and a connection that breaks is replaced by the next call.

Every trouble with the server is a StoreUnavailable. A transaction that met another one
(deadlock) is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from slimq.core.limits import QUERY_SECONDS_MAX
from slimq.core.setting import without_password
from slimq.errors import StoreUnavailable
from slimq.store.base import StoreFull
from slimq.store.migrate import POSTGRES, Migrations, known
from slimq.store.postgres_schema import set_up
from slimq.store.postgres_tx import Again, Tx, TypeIds
from slimq.system.clock import Clock

R = TypeVar("R")
IDLE = psycopg.pq.TransactionStatus.IDLE

QUERY_MS = int(QUERY_SECONDS_MAX * 1000)
TRIES = 4  # of a transaction that meets others
CONNECTION = {
    "connect_timeout": 5,  # s; for each address of the URL
    "keepalives_idle": 5,  # s; a server that vanished is noticed within about 15 s
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # ms
    "application_name": "slimq",
    "target_session_attrs": "read-write",  # of several hosts, the primary
}
_READ = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    "SET LOCAL statement_timeout = {0}; SET LOCAL jit = off"
)
_MEETINGS = (errors.DeadlockDetected, errors.SerializationFailure)
_NOT_PREPARED = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# The server refuses, and a new connection may find it changed.
_REFUSALS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.UndefinedColumn,
)


def connect(url: str, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection that a server which vanished does not hold for long. What the URL
    says goes before."""
    given = conninfo.conninfo_to_dict(url)
    settings = {name: value for name, value in CONNECTION.items() if name not in given}
    return psycopg.connect(url, autocommit=True, **settings, **options)  # type: ignore[arg-type]


class PostgresLink:
    """One connection to the server, made when it is needed. Used by one thread at a time."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        query_ms: int = QUERY_MS,
        migrations: Migrations | None = None,
    ) -> None:
        self.shown = without_password(url)
        self._url = url
        self._clock = clock
        self._query_ms = query_ms
        self._migrations = migrations or known(POSTGRES)
        self._db: psycopg.Connection[tuple[Any, ...]] | None = None
        self._types = TypeIds()
        self._prepares = True
        self._offset: int | None = None  # the server's time less the time since boot
        self._latest = 0

    def now(self) -> int:
        """Return the server's time, as of its last answer. It never goes back."""
        if self._offset is None:
            self.once(lambda _: None)
        assert self._offset is not None, "a connection asks for the time"
        self._latest = max(self._latest, self._offset + self._clock.boot_ms())
        return self._latest

    def heard(self, now: int) -> None:
        """The server just said what time it is."""
        self._offset = now - self._clock.boot_ms()

    def once(self, work: Callable[[Tx], R]) -> R:
        """Run one statement, which is its own transaction."""
        return self._guarded(work)

    def write(self, work: Callable[[Tx], R]) -> R:
        """Run one transaction; all of it or nothing. Raises StoreUnavailable."""

        def transaction(tx: Tx) -> R:
            tx.db.execute("BEGIN")
            result = work(tx)
            tx.db.execute("COMMIT")
            return result

        return self._guarded(transaction)

    def read(self, work: Callable[[Tx], R]) -> R:
        """Ask one snapshot, with a time limit. Raises StoreUnavailable, also when it takes
        too long."""
        begin = _READ.format(self._query_ms).encode()

        def transaction(tx: Tx) -> R:
            tx.db.execute(begin)
            result = work(tx)
            tx.db.execute("COMMIT")
            return result

        return self._guarded(transaction)

    def bounded(self, work: Callable[[Tx], R]) -> R:
        """`write` with the time limit of `read`."""
        limit = f"SET LOCAL statement_timeout = {self._query_ms}".encode()

        def limited(tx: Tx) -> R:
            tx.db.execute(limit)
            return work(tx)

        return self.write(limited)

    def close(self) -> None:
        """Close the connection. A later call opens it again."""
        db, self._db = self._db, None
        self._types.clear()
        if db is not None:
            db.close()

    def _guarded(self, work: Callable[[Tx], R]) -> R:
        for _ in range(TRIES):
            try:
                db = self._connected()
                return work(Tx(db, self._types))
            except (*_MEETINGS, Again):
                self._undo()
            except _NOT_PREPARED:  # a pooler gave us a session that knows nothing of ours
                self._prepares = False
                self.close()
            except psycopg.Error as error:
                raise self._failed(error) from error
            except BaseException:
                self._undo()
                raise
        raise self._cannot("its transactions keep meeting those of others")

    def _failed(self, error: psycopg.Error) -> Exception:
        """Undo, and return what to raise."""
        if isinstance(error, errors.QueryCanceled):
            self._undo()
            return StoreUnavailable(
                f"the question took longer than {self._query_ms} ms: narrow it, for example "
                "by client, jobtype, state or time"
            )
        self.close()
        if isinstance(error, errors.DiskFull):
            return self._cannot(f"its disk is full ({said(error)})", StoreFull)
        if isinstance(error, _REFUSALS):
            return self._cannot(said(error))
        return error  # a bug of ours

    def _undo(self) -> None:
        self._types.clear()  # numbers that this transaction gave are not in the store
        db = self._db
        if db is None or db.closed or db.info.transaction_status is IDLE:
            return
        try:
            db.execute("ROLLBACK")
        except psycopg.Error:  # then dropping the connection is what undoes it
            self.close()

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._db is None or self._db.closed:
            self.close()
            self._db = self._open()
        return self._db

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        db = connect(self._url, prepare_threshold=2 if self._prepares else None)
        try:
            db.adapters.register_dumper(int, Int8BinaryDumper)
            db.adapters.register_dumper(str, StrBinaryDumper)
            set_up(db, self.shown, self._migrations)
            row = db.execute("SELECT slimq.now_ms()").fetchone()
            assert row is not None, "a function has a value"
            self.heard(int(row[0]))
        except BaseException:
            db.close()
            raise
        return db

    def _cannot(
        self, why: str, kind: type[StoreUnavailable] = StoreUnavailable
    ) -> StoreUnavailable:
        return kind(f"the store {self.shown} cannot be used: {why}")


def said(error: psycopg.Error) -> str:
    """Return what the server said, on one line."""
    primary = error.diag.message_primary
    return primary if primary else " ".join(str(error).split()) or type(error).__name__
