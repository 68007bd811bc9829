"""A real PostgreSQL for tests, with all that can happen to one: stops, crashes, freezes, cut
connections, a replica that lags and is promoted, a PgBouncer in front of it.

Most tests want one fresh database: the fixture `database` of tests/conftest.py is its address,
on one server that all tests share. A test that does something to the server makes its own, by
the fixture `make_postgres`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest
from psycopg import sql

from postgres_server import (
    START_S,
    STOP_S,
    SUPERUSER,
    Home,
    NoPostgres,
    PostgresServer,
    free_port,
)

POLL_S = 0.005
MEMORY = Path("/dev/shm")
MEMORY_MIN = 2 << 30
T = TypeVar("T")

_CLIENTS = """
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND datname = coalesce(%s, datname)
"""


class Server(PostgresServer):
    """A server of a test's own. It is in memory where there is room, unless it is durable: a
    database is 300 files, and a disk on which others write takes half a second for them.

    What is inherited: start(), stop(mode), restart(mode), kill(), close(), is_ready(),
    url(database, user, password), connect(database), create_database(name, template=).
    """

    def __init__(self, *, durable: bool = False, parent: Path | None = None, **wants: Any) -> None:
        if parent is None and not durable:
            parent = memory()
        super().__init__(durable=durable, parent=parent, **wants)

    def execute(self, statement: str, *values: object, database: str = "postgres") -> list[Any]:
        """Run a statement as the superuser, in a transaction of its own; return the rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def pause(self) -> None:
        """Freeze all processes: connections stay open, and nothing answers."""
        self._freeze()

    def resume(self) -> None:
        """Let go on what pause() froze."""
        assert self.process is not None
        for pid in self._freeze():
            os.kill(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    def configure(self, **settings: str) -> None:
        """Set what needs no restart, for all connections to come and those that are open."""
        with self.connect() as connection:
            for name, value in settings.items():
                setting = sql.SQL("ALTER SYSTEM SET {} = {}")
                connection.execute(setting.format(sql.Identifier(name), sql.Literal(value)))
            connection.execute("SELECT pg_reload_conf()")

    def terminate_backends(self, database: str | None = None) -> int:
        """Cut the connections of clients, of one database or all, and return when they are
        gone, with how many there were."""
        ended = self.execute(f"SELECT pg_terminate_backend(pid) {_CLIENTS}", database)
        # PostgreSQL itself could wait for their end, but looks for it only every 100 ms.
        gone = f"SELECT count(*) = 0 {_CLIENTS}"
        wait_until(lambda: self.execute(gone, database) == [(True,)], "connections are gone")
        return len(ended)

    def create_user(self, name: str, password: str = "") -> None:
        """Make a user who may log in, and nothing else."""
        user, secret = sql.Identifier(name), sql.Literal(password or None)
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, secret))

    def create_encoded(self, name: str, encoding: str) -> str:
        """Make a database in another encoding, such as SQL_ASCII; return its address."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {}")
        with self.connect() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Literal(encoding)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is in it."""
        self.terminate_backends(name)
        with self.connect() as connection:
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(name)))

    def written(self) -> str:
        """Return up to where the write-ahead log is on disk: a replica may have that much."""
        ((position,),) = self.execute("SELECT pg_current_wal_flush_lsn()::text")
        assert isinstance(position, str)
        return position

    def replica(self, *, delay: str = "") -> Replica:
        """Start a streaming replica. It applies what comes `delay` later, such as "2s"."""
        return Replica(self, delay=delay)


class Replica(Server):
    """A hot standby that streams from a primary: a server of its own folder and port."""

    def __init__(self, primary: Server, *, delay: str = "") -> None:
        self._primary = primary
        settings = primary.settings | ({"recovery_min_apply_delay": delay} if delay else {})
        super().__init__(
            durable=primary.durable,
            auth=primary.auth,
            password=primary.password,
            settings=settings,
            binaries=primary.binaries,
        )

    def promote(self) -> None:
        """Make it a primary; return when it takes writes. What has not arrived is lost."""
        assert self.execute("SELECT pg_promote(true, 60)") == [(True,)]

    def pause_replay(self) -> None:
        """Apply nothing more of what arrives, until resume_replay() or promote()."""
        self.execute("SELECT pg_wal_replay_pause()")
        self._wait("SELECT pg_get_wal_replay_pause_state() = 'paused'")

    def resume_replay(self) -> None:
        self.execute("SELECT pg_wal_replay_resume()")

    def catch_up(self) -> None:
        """Return when it has applied all that the primary has written by now."""
        written = self._primary.written()
        self._wait("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)

    def receive(self, position: str) -> None:
        """Return when the write-ahead log has arrived up to here, applied or not."""
        self._wait("SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", position)

    def disconnect(self) -> None:
        """Receive nothing more: what the primary writes from now on is not here."""
        self.configure(primary_conninfo="")
        self._wait("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def _wait(self, condition: str, *values: object) -> None:
        wait_until(lambda: self.execute(condition, *values) == [(True,)], condition)

    def _fill(self) -> None:
        source = self._primary.url()
        words = ["-X", "stream", "-c", "fast", "--no-sync", "-R"]
        self._home.run(self.binaries / "pg_basebackup", "-D", self.data, "-d", source, *words)


class PgBouncer:
    """A PgBouncer before a server, one connection for each transaction; a context manager.

    `size` is how many connections it opens to a database. Settings are those of pgbouncer.ini.
    """

    def __init__(
        self, server: PostgresServer, *, size: int = 5, settings: Mapping[str, str] | None = None
    ) -> None:
        self._server = server
        self._settings = {"default_pool_size": str(size)} | dict(settings or {})
        self._home = Home("pgbouncer")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str = "") -> str:
        direct = self._server.url(database, user, password)
        return direct.replace(f":{self._server.port}/", f":{self.port}/")

    def start(self) -> None:
        assert self.process is None
        program = find_pgbouncer()
        configuration = self._home.write("pgbouncer.ini", self._configuration())
        log = self._home.path / "log"
        self.process = self._home.spawn(program, configuration, log=log)
        process = self.process
        wait_until(lambda: process.poll() is not None or _listens(self.port), "PgBouncer listens")
        assert process.poll() is None, log.read_text(errors="replace")

    def stop(self) -> None:
        """End it, and with it all connections of its clients."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)
            self.process = None

    def close(self) -> None:
        self.stop()
        self._home.remove()

    def _configuration(self) -> str:
        users = self._home.write("users", f'"{SUPERUSER}" "{self._server.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": self._server.auth,
            "auth_file": str(users),
            "pool_mode": "transaction",
        } | self._settings
        lines = [f"{name} = {value}" for name, value in settings.items()]
        databases = f"[databases]\n* = host=127.0.0.1 port={self._server.port}\n"
        return databases + "[pgbouncer]\n" + "\n".join(lines) + "\n"


def either(*servers: Server, database: str = "postgres") -> str:
    """Return the address of whichever of the servers takes writes: a primary and its replicas."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = servers[0].url(database)
    host = f"127.0.0.1:{servers[0].port}"
    return url.replace(host, hosts) + "?target_session_attrs=read-write"


# --- without a server --------------------------------------------------------------------


def find_pgbouncer() -> Path:
    """Raises NoPostgres."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise NoPostgres("no PgBouncer: not on PATH, not in /usr/sbin")
    return Path(found)


def or_skip(make: Callable[[], T], environment: Mapping[str, str] = os.environ) -> T:
    """Return what is made; without a server skip the test, and where CI is set fail it."""
    try:
        return make()
    except NoPostgres as missing:
        reason = str(missing)
    raise outcome_without(reason, environment)


def outcome_without(reason: str, environment: Mapping[str, str]) -> BaseException:
    if environment.get("CI", "").lower() in ("", "0", "false"):
        return pytest.skip.Exception(reason)
    return pytest.fail.Exception(f"{reason}. Where CI is set, this is no reason to skip")


def memory() -> Path | None:
    """Return a folder that is in memory, may be written, and is large enough."""
    usable = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_MIN
    return MEMORY if usable else None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < end, f"after {START_S} s still not: {what}"
        time.sleep(POLL_S)
