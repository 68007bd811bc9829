"""What a system keeps its jobs in, started on loopback for one workload, with nothing in it."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from node import Node, serving, wait_until
from peers import installing
from peers.installing import Absent
from peers.processes import running
from postgres_server import NoPostgres, PostgresServer, free_port

START_S = 20.0
# The server is for the benchmark alone, so it may use the machine; what is durable stays as it is.
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB", "max_connections": "200"}


@dataclass
class Broker:
    """`url` is what clients and workers are told, `env` what else; `pids` are its processes,
    `version` that of the server, where it is another program than the system."""

    url: str
    pids: list[int] = field(default_factory=list)
    env: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


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
        with _listening(words, folder, port) as pid:
            yield Broker(f"beanstalkd://127.0.0.1:{port}", [pid], version=_version(program, "-v"))

    @contextmanager
    def redis(self, folder: Path, fsync: str) -> Iterator[Broker]:
        port = free_port()
        program = installing.debian("redis-server", "redis-server")
        words = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        words += ["--appendonly", "yes", "--appendfsync", fsync, "--save", ""]
        with _listening(words, folder, port) as pid:
            version = f"Redis {_version(program, '--version')}"
            yield Broker(f"redis://127.0.0.1:{port}/0", [pid], version=version)

    @contextmanager
    def nats(self, folder: Path) -> Iterator[Broker]:
        port, config = free_port(), folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{folder}/jetstream", max_file: 20GB, max_mem: 1GB }}\n'
        )
        program = installing.debian("nats-server", "nats-server")
        with _listening([program, "-c", str(config)], folder, port) as pid:
            version = f"server {_version(program, '--version')}"
            yield Broker(f"nats://127.0.0.1:{port}", [pid], version=version)

    @contextmanager
    def workly(self, folder: Path, program: str) -> Iterator[Broker]:
        port = free_port()
        words = [program, "dev", "--port", str(port)]
        with _listening(words, folder, port, {"WORKLY_LOG_LEVEL": "error"}) as pid:
            yield Broker(f"http://127.0.0.1:{port}", [pid], version=_version(program, "version"))

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
        with serving(folder / "node") as node:
            yield _of_node(folder, node, [], "")

    @contextmanager
    def slimq_postgres(self, folder: Path) -> Iterator[Broker]:
        """A node whose jobs are in PostgreSQL."""
        with (
            self.postgres(folder) as database,
            serving(folder / "node", {"SLIMQ_STORE__URL": database.url}) as node,
        ):
            yield _of_node(folder, node, database.pids, database.version)

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


def _of_node(folder: Path, node: Node, pids: list[int], version: str) -> Broker:
    log = {"BENCH_LOG": str(folder / "node" / "log")}
    return Broker(f"http://127.0.0.1:{node.port}", [node.process.pid, *pids], log, version)


def _postgres_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return f"PostgreSQL {connection.info.parameter_status('server_version')}".partition(" (")[0]


@cache
def _version(program: str, option: str) -> str:
    said = subprocess.run([program, option], capture_output=True, text=True, check=True)
    found = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    return found[0] if found else "unknown"


@contextmanager
def _listening(
    words: Sequence[str], folder: Path, port: int, env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server until it is no more wanted, from when it takes connections."""
    log = folder / "broker.log"
    with running(words, folder, log, env or {}) as process:
        wait_until(lambda: _takes(process, port, log), f"{words[0]} to listen", START_S)
        yield process.pid


def _takes(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the server ended: {log.read_text(errors='replace')[-500:]}")
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
