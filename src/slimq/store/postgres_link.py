"""The connection of a PostgreSQL store: opened when needed, healed by itself.

Nothing depends on the session: no temporary tables, no session locks, no settings that
outlive a transaction but those that make plans. So a pooler that gives each transaction another
session (PgBouncer) may stand between, and a connection that breaks is replaced by the next call.

Every trouble with the server is a StoreUnavailable; one that waiting does not heal says so.
A transaction that met another one (deadlock) is run again.

Nothing waits for ever: a server that is silent for `answer_s` is taken for gone (a frozen one
still has a kernel that acknowledges), and a connection that could not be made is not tried
again at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrBinaryDumper

from slimq.core.limits import QUERY_SECONDS_MAX
from slimq.core.setting import without_password
from slimq.errors import ConfigError, StoreRefused, StoreUnavailable
from slimq.store.base import StoreFull, TooSlow
from slimq.store.migrate import POSTGRES, Migrations, known
from slimq.store.postgres_schema import set_up
from slimq.store.postgres_trouble import may_heal, said
from slimq.store.postgres_tx import Again, Tx, TypeIds
from slimq.system.clock import Clock

R = TypeVar("R")
IDLE = psycopg.pq.TransactionStatus.IDLE

QUERY_MS = int(QUERY_SECONDS_MAX * 1000)
TRIES = 4  # of a transaction that meets others
ANSWER_S = 10.0  # a server that is silent for so long is gone; two renewals fit in a lease
SET_UP_S = 60.0  # but for the scripts of the schema
REST_MS = 300  # after a connection could not be made
CONNECTION = {
    "connect_timeout": 3,  # s; for each address of the URL
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
# The plan of a prepared statement stays. One that is made while nothing waits would read the
# whole table, which is a page then; beside a backlog it would do so for every batch. This is for
# speed alone: without it, as behind a pooler, nothing is prepared either.
_BY_INDEX = "SET enable_seqscan = off; SET jit = off"
_MEETINGS = (errors.DeadlockDetected, errors.SerializationFailure)
_NOT_PREPARED = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# The server refuses, and a new connection may find it changed.
_REFUSALS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.InternalError_,
    errors.DataCorrupted,
    errors.IndexCorrupted,
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.UndefinedColumn,
    errors.FeatureNotSupported,  # "cached plan must not change result type": it was migrated
)
# What a node writes to; it makes and drops the partitions of `done`, which only an owner may.
_FORBIDDEN = """
SELECT quote_ident(current_user), quote_ident(relname) FROM pg_class AS c
WHERE relnamespace = 'slimq'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
  AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
    AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')
    AND (relname <> 'done' OR pg_has_role(relowner, 'USAGE')))
LIMIT 1
"""
_MALFORMED = (
    "store.url is malformed: it is postgresql://user:password@host:5432/database?option=value; "
    "in user and password, all but letters, digits and .-_~ is written as %XX; options are "
    "those of libpq"
)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """One whose server is gone when it is silent for `answer_s`."""

    answer_s = ANSWER_S

    def wait(self, gen: Generator[Any, Any, R], *limits: Any, **more: Any) -> R:
        return super().wait(_bounded(gen, self.answer_s), *limits, **more)


def _bounded(gen: Generator[Any, Any, R], seconds: float) -> Generator[Any, Any, R]:
    """Go on with what waits for a server; raise OperationalError when that takes too long."""
    end = monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and monotonic() >= end:
                raise psycopg.OperationalError(f"it gave no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as over:
        result: R = over.value
        return result


def check_url(url: str) -> None:
    """Raise ConfigError when libpq cannot read it. What it says is not shown: it may quote
    a part of the password."""
    try:
        given = conninfo.conninfo_to_dict(url)
        ports = str(given.get("port") or "").split(",")
    except psycopg.Error:
        raise ConfigError(_MALFORMED) from None
    if not all(
        port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65_536)
        for port in ports
    ):
        raise ConfigError(_MALFORMED)


def connect(url: str, *, answer_s: float = ANSWER_S, **options: Any) -> Connection:
    """Return a connection that a server which vanished does not hold for long. What the URL
    says goes before."""
    given = conninfo.conninfo_to_dict(url)
    settings = {name: value for name, value in CONNECTION.items() if name not in given}
    db = Connection.connect(url, autocommit=True, **settings, **options)  # type: ignore[arg-type]
    db.answer_s = answer_s
    return db


class PostgresLink:
    """One connection to the server, made when it is needed. Used by one thread at a time."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        query_ms: int = QUERY_MS,
        answer_s: float = ANSWER_S,
        migrations: Migrations | None = None,
    ) -> None:
        self.shown = without_password(url)
        self._url = url
        self._clock = clock
        self._query_ms = query_ms
        self._migrations = migrations or known(POSTGRES)
        self._answer_s = answer_s
        self._refusal: StoreUnavailable | None = None  # why there is no connection
        self._rests_until = 0
        self._db: Connection | None = None
        self._types = TypeIds()
        self._prepares = True
        self._offset: int | None = None  # the server's time less the time since boot
        self._latest = 0

    def check(self) -> None:
        """Raise StoreRefused when it cannot be used, and waiting would not heal that."""
        try:
            self._connected()
        except StoreUnavailable as error:
            if not error.heals:
                raise StoreRefused(error.detail) from error

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
            db = self._connected()
            try:
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
            return TooSlow(
                f"the question took longer than {self._query_ms} ms: narrow it, for example "
                "by client, jobtype, state or time"
            )
        is_cut = self._db is None or self._db.closed
        self.close()
        if isinstance(error, errors.DiskFull):
            return self._cannot(f"its disk is full ({said(error, self._url)})", StoreFull)
        if is_cut or isinstance(error, _REFUSALS):
            return self._refused(error)
        return error  # a bug of ours

    def _refused(self, error: psycopg.Error) -> StoreUnavailable:
        refusal = self._cannot(said(error, self._url))
        refusal.heals = may_heal(error)
        return refusal

    def _undo(self) -> None:
        self._types.clear()  # numbers that this transaction gave are not in the store
        db = self._db
        if db is None or db.closed or db.info.transaction_status is IDLE:
            return
        try:
            db.execute("ROLLBACK")
        except psycopg.Error:  # then dropping the connection is what undoes it
            self.close()

    def _connected(self) -> Connection:
        if self._db is None or self._db.closed:
            self.close()
            if self._refusal is not None and self._clock.boot_ms() < self._rests_until:
                raise _same(self._refusal)
            try:
                self._db = self._open()
            except StoreUnavailable as refusal:
                self._refusal = refusal
                self._rests_until = self._clock.boot_ms() + REST_MS
                raise
        return self._db

    def _open(self) -> Connection:
        """Connect, and look at what is there. Raises StoreUnavailable, for every reason: what
        a server answers that is none must not end a node."""
        try:
            db = connect(self._url, prepare_threshold=2 if self._prepares else None)
        except psycopg.Error as error:
            raise self._refused(error) from error
        try:
            self._look(db)
        except psycopg.Error as error:
            db.close()
            raise self._refused(error) from error
        except BaseException:
            db.close()
            raise
        return db

    def _look(self, db: Connection) -> None:
        db.adapters.register_dumper(int, Int8BinaryDumper)
        db.adapters.register_dumper(str, StrBinaryDumper)
        db.answer_s = max(SET_UP_S, self._answer_s)
        set_up(db, self.shown, self._migrations)
        db.answer_s = self._answer_s
        if (forbidden := db.execute(_FORBIDDEN).fetchone()) is not None:
            user, table = forbidden
            raise self._lasting(f"{user} lacks privileges on slimq.{table}: it should be the owner")
        row = db.execute("SELECT slimq.now_ms(), pg_backend_pid()").fetchone()
        assert row is not None, "a function has a value"
        now, pid = row
        self.heard(int(now))
        if pid != db.info.backend_pid:
            # A pooler is between. In the session of another, the name of our prepared
            # statement may be that of his.
            db.prepare_threshold = None
        else:
            db.execute(_BY_INDEX)

    def _lasting(self, why: str) -> StoreUnavailable:
        refusal = self._cannot(why)
        refusal.heals = False
        return refusal

    def _cannot(
        self, why: str, kind: type[StoreUnavailable] = StoreUnavailable
    ) -> StoreUnavailable:
        return kind(f"the store {self.shown} cannot be used: {why}")


def _same(refusal: StoreUnavailable) -> StoreUnavailable:
    """Return what can be raised once more: who catches it may write on it."""
    copy = type(refusal)(refusal.detail)
    copy.heals = refusal.heals
    return copy
