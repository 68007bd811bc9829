"""Workloads on PostgreSQL: a server of its own, durable, on the disk that the nodes write to."""

from __future__ import annotations

import itertools
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from statistics import median

import psycopg

from bench import Bench, in_turns, tell
from load import lines
from machine import ROOT
from node import Node, cpu_seconds, wait_until
from postgres_limits import Bare
from postgres_server import PostgresServer
from result import Figure, Limit, Result, of_runs
from running import COMMAND, EXEC_BATCH
from waiting import FEW, MANY, POST, drain, figures, fill, prepare

assert ROOT, "it knows where the server is"
NODES = 4
JOBS, RUNS = 200_000, 3
DEAD = 1_000_000
LEASES = 10_000
REST_S, WATCH_S = 5.0, 20.0
_BARE = "SKIP LOCKED: claim and delete the same rows, 1,000 at a time"
_DEAD = """
INSERT INTO slimq.job (type_id, dt, due_at, id, data)
SELECT type_id, 0, 0, 'dead' || n, '' FROM slimq.type, generate_series(1, %s) AS n
WHERE name = 'main/drain'
"""


class Cluster:
    """Nodes that share a database."""

    def __init__(self, server: PostgresServer, url: str, nodes: Sequence[Node]) -> None:
        self.server, self.url, self.nodes = server, url, nodes
        self.db = psycopg.connect(url, autocommit=True)

    def put(self, **options: object) -> None:
        self.nodes[0].put("drain", "exec", list(COMMAND), batch_size=EXEC_BATCH, **options)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def start(self) -> None:
        for node in self.nodes:
            node.call("POST", "/start")

    def count(self, kind: str) -> int:
        """Return how many jobs are ``waiting``, ``running``, ``ok``."""
        query = f"SELECT coalesce(sum({kind}), 0)::bigint FROM slimq.type_count"
        row = self.db.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def ingest(self, count: int) -> float:
        """Add jobs; return how many a second came into the database."""
        before, start = self.count("waiting"), time.perf_counter()
        for first in range(0, count, POST):
            self.nodes[0].add("drain", lines(min(POST, count - first)))
        wait_until(lambda: self.count("waiting") - before == count, "the jobs to be stored")
        return count / (time.perf_counter() - start)

    def drain(self, count: int) -> float:
        """Run the jobs that wait; return how many a second."""
        before, start = self.count("ok"), time.perf_counter()
        self.start()
        wait_until(lambda: self.count("ok") - before >= count, "the jobs to be done")
        rate = count / (time.perf_counter() - start)
        self.stop()
        tell(f"{len(self.nodes)} nodes: {rate:,.0f} jobs/s")
        return rate

    def server_seconds(self) -> float:
        """Return the processor time of the sessions of the nodes."""
        found = self.db.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'slimq'")
        return sum(cpu_seconds(pid) for (pid,) in found.fetchall())


@contextmanager
def a_server(bench: Bench) -> Iterator[PostgresServer]:
    """Run a server that waits for the disk, with the settings that it comes with."""
    bench.folder.chmod(0o755)  # it may be run by another user
    with PostgresServer(durable=True, parent=bench.folder) as server:
        yield server


@contextmanager
def a_cluster(bench: Bench, server: PostgresServer, nodes: int = 1) -> Iterator[Cluster]:
    url = server.create_database(f"bench_{next(_numbers)}")
    with ExitStack() as opened:
        members = [opened.enter_context(bench.node(url)) for _ in range(nodes)]
        cluster = Cluster(server, url, members)
        with closing(cluster.db):
            yield cluster


_numbers = itertools.count()


def postgres_ingest(bench: Bench) -> Result:
    """200,000 jobs of 100 bytes in two `POST /add`: from the first byte sent until all are in the
    database. The engine runs nothing.

    The limit is a COPY of the same rows by one connection into a bare table with a primary key and
    the index of waiting rows, without a journal, from the same Python.
    """
    count = bench.jobs(JOBS)
    with a_server(bench) as server, a_cluster(bench, server) as cluster:
        cluster.put()
        cluster.stop()
        rows = lines(count).splitlines()

        def copy() -> float:
            with closing(Bare(cluster.url)) as bare:
                return bare.copy(rows)

        samples, copied = in_turns(bench.runs(RUNS), lambda: cluster.ingest(count), copy)
    return Result(
        "postgres_ingest",
        of_runs(samples, "rows/s", 100_000),
        [Limit(median(copied), "COPY of the same rows")],
        samples,
    )


def postgres_drain(bench: Bench) -> Result:
    """200,000 jobs of 100 bytes wait, and are run by the command `sed 's/^.*/200/'` in batches of
    1,000: from the start of the engine until the last one is done in the database.

    One node, and four nodes of another database of the same server, in turns. Each node claims,
    runs and finishes by itself; all share the cores with the server. The limit is a claim and
    delete of the same rows in batches of 1,000 by one connection, with nothing kept of them.
    `server CPU` is the processor time of the sessions of the nodes for one job. Other queues on
    the same PostgreSQL are in `make bench-peers`.
    """
    count = bench.jobs(JOBS)
    cpu: list[float] = []
    with (
        a_server(bench) as server,
        a_cluster(bench, server) as one,
        a_cluster(bench, server, NODES) as four,
    ):
        rows = lines(count).splitlines()
        for cluster in (one, four):
            cluster.put()
            cluster.stop()

        def run(cluster: Cluster) -> float:
            cluster.ingest(count)
            before = cluster.server_seconds()
            rate = cluster.drain(count)
            cpu.append(1e6 * (cluster.server_seconds() - before) / count)
            return rate

        def bare() -> float:
            with closing(Bare(one.url)) as table:
                table.copy(rows)
                return table.drain()

        samples, of_four, limit = in_turns(
            bench.runs(RUNS), lambda: run(one), lambda: run(four), bare
        )
    return Result(
        "postgres_drain",
        of_runs(samples, "jobs/s", 40_000),
        [Limit(median(limit), _BARE)],
        samples,
        [
            Figure(median(of_four), "jobs/s", 40_000, name="four nodes"),
            Figure(median(cpu[::2]), "µs", name="server CPU, one node"),
            Figure(median(cpu[1::2]), "µs", name="server CPU, four nodes"),
        ],
    )


def postgres_backlog(bench: Bench) -> Result:
    """How fast 10,000 jobs are drained when 1,000,000 wait in the database, against when only they
    wait; as drain_backlog does it with files. Two databases of one server take turns.

    `--scale 5` lets 5,000,000 wait. The limit is 100: that nothing changes.
    """
    few, many = min(FEW, bench.jobs(FEW)), bench.jobs(MANY)
    with (
        a_server(bench) as server,
        a_cluster(bench, server) as small,
        a_cluster(bench, server) as large,
        bench.receiver() as receiver,
    ):
        for cluster in (small, large):
            prepare(cluster.nodes[0], receiver)
        tell(f"filling up to {many:,}")
        fill(large.nodes[0], many)
        pairs = []
        for _ in range(bench.runs(RUNS * 3)):
            fill(small.nodes[0], few)
            pairs.append((drain(small.nodes[0], few), drain(large.nodes[0], few)))
    samples = [100 * b.rate / a.rate for a, b in pairs]
    of_few, of_many = zip(*pairs, strict=True)
    return Result(
        "postgres_backlog",
        of_runs(samples, "% of the rate with 10,000", 80),
        [Limit(100, "no difference")],
        samples,
        [*figures(of_few, "10,000 of 10,000"), *figures(of_many, f"10,000 of {many:,}")],
    )


def postgres_bloat(bench: Bench) -> Result:
    """What 1,000,000 dead rows of the same type cost, which a snapshot that somebody holds keeps
    from being removed: the rate of draining 100,000 jobs beside them, against the rate without.

    Two databases of one server take turns. The snapshot is held all the time, so that what is
    drained leaves dead rows, too. The limit is 100: that nothing changes.
    """
    count, dead = bench.jobs(POST), bench.jobs(DEAD)
    with (
        a_server(bench) as server,
        a_cluster(bench, server) as clean,
        a_cluster(bench, server) as bloated,
        closing(psycopg.connect(bloated.url)) as forgotten,
    ):
        for cluster in (clean, bloated):
            cluster.put()
            cluster.stop()
            cluster.ingest(EXEC_BATCH)
            cluster.drain(EXEC_BATCH)
        forgotten.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        forgotten.execute("SELECT count(*) FROM slimq.job")
        tell(f"making {dead:,} dead rows")
        bloated.db.execute(_DEAD, (dead,))
        bloated.db.execute("DELETE FROM slimq.job WHERE id LIKE 'dead%'")

        def run(cluster: Cluster) -> float:
            cluster.ingest(count)
            return cluster.drain(count)

        without, beside = in_turns(bench.runs(RUNS), lambda: run(clean), lambda: run(bloated))
    samples = [100 * b / a for a, b in zip(without, beside, strict=True)]
    return Result(
        "postgres_bloat",
        of_runs(samples, "% of the rate without them", 70),
        [Limit(100, "no difference")],
        samples,
        [
            Figure(median(without), "jobs/s", name="without them"),
            Figure(median(beside), "jobs/s", name="beside them"),
        ],
    )


def postgres_takeover(bench: Bench) -> Result:
    """A node that runs 10,000 jobs is killed with kill -9 and started again on its folder: from
    when it has started until all of them wait again. The limit is 0: nothing could be quicker.
    """
    count = bench.jobs(LEASES)
    with a_server(bench) as server:
        samples = [_takeover(bench, server, count) for _ in range(bench.runs(RUNS))]
    return Result(
        "postgres_takeover",
        of_runs(samples, "s for 10,000 leases", 1, lower=True),
        [Limit(0.0, "nothing")],
        samples,
    )


def _takeover(bench: Bench, server: PostgresServer, count: int) -> float:
    url, folder = server.create_database(f"bench_{next(_numbers)}"), bench.new_folder()
    with bench.node(url, folder) as node:
        node.put("sleep", "exec", ["sleep", "600"], batch_size=count)
        node.add("sleep", lines(count))
        node.await_type("sleep", "running", count)
        node.call("POST", "/stop")  # also for the next start: it runs nothing
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
    with bench.node(url, folder), closing(psycopg.connect(url, autocommit=True)) as db:
        start = time.perf_counter()
        _await_none_running(db)
        return time.perf_counter() - start


def _await_none_running(db: psycopg.Connection) -> None:
    query = "SELECT sum(running) = 0 FROM slimq.type_count"
    wait_until(lambda: db.execute(query).fetchall() == [(True,)], "all to wait", poll_s=0.005)


def postgres_idle(bench: Bench) -> Result:
    """How many statements a second a node without work sends, counted in the log of the server for
    20 s. The limit is 0: a node that asks nothing learns nothing of what others add.
    """
    with a_server(bench) as server, a_cluster(bench, server) as cluster:
        cluster.put()
        cluster.nodes[0].add("drain", lines(EXEC_BATCH))  # they may be done before they are seen
        wait_until(lambda: cluster.count("ok") == EXEC_BATCH, "the jobs to be done")
        cluster.db.execute("ALTER SYSTEM SET log_min_duration_statement = 0")
        cluster.db.execute("SELECT pg_reload_conf()")
        time.sleep(bench.seconds(REST_S))
        at, seconds = server.log.stat().st_size, bench.seconds(WATCH_S)
        time.sleep(seconds)
        with server.log.open("rb") as log:
            log.seek(at)
            said = log.read().decode(errors="replace")
        count = len(re.findall(r"ms  (?:execute|statement)", said))
    rate = count / seconds
    return Result(
        "postgres_idle",
        Figure(rate, "statements/s", 2, lower=True),
        [Limit(0.0, "nothing")],
        [rate],
    )
