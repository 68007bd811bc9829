"""What a system keeps its jobs in, started on loopback for one workload, with nothing in it."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from node import serving, wait_until
from peers import installing
from peers.installing import Absent
from peers.processes import running
from postgres_server import NoPostgres, PostgresServer, free_port

START_S = 20.0
Started = AbstractContextManager[subprocess.Popen[bytes]]
# The server is for the benchmark alone, so it may use the machine; what is durable stays as it is.
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "200"}


@dataclass
class Broker:
    """`url` is what clients and workers are told, `env` what else; `pids` are its processes,
    `version` that of the server, where it is another program than the system. `restart` kills it
    and starts it with what it has kept; it returns when that was, in ns of CLOCK_MONOTONIC."""

    url: str
    pids: list[int] = field(default_factory=list)
    env: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    restart: Callable[[], int] | None = None


class Process:
    """The process of a broker, which `start` starts on what it has kept. A context manager."""

    def __init__(self, start: Callable[[], Started]) -> None:
        self._start = start
        self._stack = ExitStack()
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self) -> int:
        self._process.kill()
        self._process.wait()
        at = time.monotonic_ns()
        self._begin()
        return at

    def _begin(self) -> None:
        self._process = self._stack.enter_context(self._start())
        self.pids[:1] = [self._process.pid]


class Brokers:
    """Starts brokers. One PostgreSQL serves all that need one, with a database for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._postgres: PostgresServer | None = None

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.close()

    @contextmanager
    def none(self, folder: Path) -> Iterator[Broker]:
        """A file in the folder, by the clients themselves."""
        yield Broker(str(folder))

    @contextmanager
    def beanstalkd(self, folder: Path, fsync_ms: int) -> Iterator[Broker]:
        port, data = free_port(), folder / "binlog"
        data.mkdir()
        program = installing.debian("beanstalkd", "beanstalkd")
        words = [program, "-l", "127.0.0.1", "-p", str(port), "-b", str(data), "-f", str(fsync_ms)]
        version = _version(program, "-v")
        with _process(words, folder, port) as process:
            yield _broker(f"beanstalkd://127.0.0.1:{port}", process, version)

    @contextmanager
    def redis(self, folder: Path, fsync: str) -> Iterator[Broker]:
        port = free_port()
        program = installing.debian("redis-server", "redis-server")
        words = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        words += ["--appendonly", "yes", "--appendfsync", fsync, "--save", ""]
        version = f"Redis {_version(program, '--version')}"
        with _process(words, folder, port, ping=True) as process:
            yield _broker(f"redis://127.0.0.1:{port}/0", process, version)

    @contextmanager
    def nats(self, folder: Path) -> Iterator[Broker]:
        port, config = free_port(), folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{folder}/jetstream", max_file: 20GB, max_mem: 1GB }}\n'
        )
        program = installing.debian("nats-server", "nats-server")
        version = f"server {_version(program, '--version')}"
        with _process([program, "-c", str(config)], folder, port) as process:
            yield _broker(f"nats://127.0.0.1:{port}", process, version)

    @contextmanager
    def workly(self, folder: Path, program: str) -> Iterator[Broker]:
        port = free_port()
        words = [program, "dev", "--port", str(port)]
        version = _version(program, "version")
        with _process(words, folder, port, {"WORKLY_LOG_LEVEL": "error"}) as process:
            yield _broker(f"http://127.0.0.1:{port}", process, version)

    @contextmanager
    def postgres(self, folder: Path) -> Iterator[Broker]:
        server = self._server()
        assert server.process is not None
        name = f"bench_{next(self._numbers)}"
        url = server.create_database(name)
        try:
            yield Broker(url, [server.process.pid], version=_postgres_version(url))
        finally:
            with server.connect() as connection:
                drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                connection.execute(drop)

    @contextmanager
    def slimq(self, folder: Path) -> Iterator[Broker]:
        """A node as it comes, with its own SQLite file."""
        with _node(folder, {}) as broker:
            yield broker

    @contextmanager
    def slimq_postgres(self, folder: Path) -> Iterator[Broker]:
        """A node whose jobs are in PostgreSQL."""
        with (
            self.postgres(folder) as database,
            _node(folder, {"SLIMQ_STORE__URL": database.url}) as broker,
        ):
            broker.pids.extend(database.pids)
            broker.version = database.version
            yield broker

    def _server(self) -> PostgresServer:
        if self._postgres is None:
            self._folder.chmod(0o755)  # it may be run by another user
            try:
                self._postgres = PostgresServer(
                    durable=True, parent=self._folder, settings=POSTGRES
                )
            except NoPostgres as error:
                raise Absent(str(error)) from None
        return self._postgres


@contextmanager
def _node(folder: Path, settings: Mapping[str, str]) -> Iterator[Broker]:
    port = str(free_port())

    @contextmanager
    def start() -> Iterator[subprocess.Popen[bytes]]:
        with serving(folder / "node", {**settings, "SLIMQ_SERVER__PORT": port}) as node:
            yield node.process

    with Process(start) as process:
        broker = _broker(f"http://127.0.0.1:{port}", process, "")
        broker.env = {"BENCH_LOG": str(folder / "node" / "log")}
        yield broker


def _broker(url: str, process: Process, version: str) -> Broker:
    return Broker(url, process.pids, version=version, restart=process.restart)


def _postgres_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}".partition(" (")[0]


@cache
def _version(program: str, option: str) -> str:
    said = subprocess.run([program, option], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    return found[0] if found else "unknown"


def _process(
    words: Sequence[str],
    folder: Path,
    port: int,
    env: Mapping[str, str] | None = None,
    *,
    ping: bool = False,
) -> Process:
    """Return a server that is ready when it takes connections, or answers to a ping of Redis."""
    log = folder / "broker.log"

    @contextmanager
    def start() -> Iterator[subprocess.Popen[bytes]]:
        with running(words, folder, log, env or {}) as process:
            wait_until(lambda: _takes(process, port, log, ping), f"{words[0]} to serve", START_S)
            yield process

    return Process(start)


def _takes(process: subprocess.Popen[bytes], port: int, log: Path, ping: bool) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the server ended: {log.read_text(errors='replace')[-500:]}")
    with socket.socket() as probe:
        probe.settimeout(0.2)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return False
        if not ping:
            return True
        try:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")  # and not that it is loading
        except OSError:
            return False
