"""What is measured: one entry for each system in each durable setting, and what it is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from machine import ROOT
from peers import installing
from peers.brokers import Broker, Brokers

PROGRAMS = Path(__file__).parent / "programs"
ALL = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W9", "W10")
EACH = ("W1", "W2", "W3", "W4")
NEVER_LATER = ("W1", "W2", "W3", "W4", "W5", "W7", "W9", "W10")  # of what cannot defer many jobs
ALWAYS, EVERYSEC = "AOF, fsync at each write", "AOF, fsync once a second"
POSTGRES = "PostgreSQL, synchronous_commit"
JOURNAL = "fsync before the answer"
UVLOOP = "uvloop>=0.22,<0.24"
LOOP = "1, in a loop"
Start = Callable[[Brokers, Path], AbstractContextManager[Broker]]
Words = Sequence[str]


class Environment(NamedTuple):
    """`run` starts a program; `bin` has the peer's own commands."""

    run: list[str]
    bin: Path
    env: dict[str, str]


def pip(name: str, *requirements: str) -> Callable[[], Environment]:
    def install() -> Environment:
        folder = installing.python(name, requirements)
        return Environment([str(folder / "python")], folder, {"PYTHONPATH": str(PROGRAMS)})

    return install


def npm(*requirements: str) -> Callable[[], Environment]:
    def install() -> Environment:
        modules = installing.node(requirements)
        return Environment(["node"], modules / ".bin", {"NODE_PATH": str(modules)})

    return install


def plain() -> Environment:
    """Return our own interpreter, for what is called by plain sockets."""
    path = f"{PROGRAMS}:{ROOT / 'src'}"
    return Environment([sys.executable], Path(sys.executable).parent, {"PYTHONPATH": path})


@dataclass(frozen=True)
class Program:
    """What speaks to a queue, in `programs`. Each of `workers` is the words for one process, which
    is that program, or with a `/` in the first word a command of the peer. `lone` are those for
    single jobs, where they differ."""

    file: str
    install: Callable[[], Environment]
    workers: Sequence[Words] = (("worker",), ("worker",))
    lone: Sequence[Words] = ()


@dataclass(frozen=True)
class System:
    """`key` chooses it on the command line. `bulk` and `drain` say how many jobs go at a time.
    `jobs` are those of W3: about two seconds' worth, and many times what goes at a time."""

    key: str
    name: str
    durability: str
    bulk: str
    drain: str
    jobs: int
    broker: Start
    program: Program
    workloads: Sequence[str] = ALL

    def batch(self, workload: str) -> str:
        """Return how many jobs went at a time in a workload."""
        together = "1" if self.program.lone else self.drain
        many = {"W1": self.bulk, "W3": self.drain, "W5": self.drain, "W9": together}
        return many.get(workload.partition("-")[0], "1")


# --- brokers -----------------------------------------------------------------------------


def redis(fsync: str) -> Start:
    return lambda brokers, folder: brokers.redis(folder, fsync)


def beanstalkd(fsync_ms: int) -> Start:
    return lambda brokers, folder: brokers.beanstalkd(folder, fsync_ms)


def workly(brokers: Brokers, folder: Path) -> AbstractContextManager[Broker]:
    program = installing.python("workly", ["workly-cli>=0.2,<0.3"]) / "workly"
    return brokers.workly(folder, str(program))


# --- programs ----------------------------------------------------------------------------

SLIMQ_EXEC = Program("slimq_program.py", plain, [("worker-exec", "1000")])
SLIMQ_PYTHON = Program("slimq_program.py", plain, [("worker-python", "1000")])
SLIMQ_URL_100 = Program("slimq_program.py", plain, [("worker-http", "100")])
SLIMQ_URL = Program("slimq_program.py", plain, [("worker-http", "1")])
BEANSTALKD = Program("beanstalkd.py", plain)
HUEY = Program(
    "huey_program.py",
    pip("huey", "huey[redis]>=3.5,<3.6"),
    [["/huey_consumer", "huey_program.queue", "-w", "2", "-k", "process", "-q"]],
)
RQ = Program(
    "rq_program.py",
    pip("rq", "rq>=3.0,<3.1", "redis>=5,<9"),
    [["/rq", "worker", "-u", "{url}", "-w", "rq.SimpleWorker", "--logging_level", "ERROR", "bench"]]
    * 2,
)
DRAMATIQ = Program(
    "dramatiq_program.py",
    pip("dramatiq", "dramatiq[redis]>=2.2,<2.3"),
    [["/dramatiq", "dramatiq_program", "--processes", "2", "--threads", "8"]],
)
CELERY = Program(
    "celery_program.py",
    pip("celery", "celery[redis]>=5.7,<5.8"),
    [
        [
            "/celery",
            "-A",
            "celery_program",
            "worker",
            "-P",
            "prefork",
            "-c",
            "2",
            "-l",
            "ERROR",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    ],
)
SAQ = Program(
    "saq_program.py",
    pip("saq", "saq[redis]>=0.26,<0.27", "typing_extensions>=4,<5", UVLOOP),
    [["/saq", "saq_program.settings", "--quiet"]] * 2,
)
BULLMQ = Program("bullmq.cjs", npm("bullmq@6", "ioredis@5"))
PROCRASTINATE = Program(
    "procrastinate_program.py",
    pip("procrastinate", "procrastinate>=3.10,<3.11", "psycopg[binary,pool]>=3.2,<4"),
)
PGQUEUER = Program("pgqueuer_program.py", pip("pgqueuer", "pgqueuer[asyncpg]>=1.6,<1.7", UVLOOP))
GRAPHILE = Program("graphile.cjs", npm("graphile-worker@0.18", "pg@8"), lone=[("worker-one",)] * 2)
PG_BOSS = Program("pgboss.cjs", npm("pg-boss@10"))
NATS = Program(
    "nats_program.py", pip("nats", "nats-py>=2.16,<2.17", UVLOOP), lone=[("worker-one",)] * 2
)
WORKLY = Program("workly_program.py", plain, [("worker",)])

# --- systems -----------------------------------------------------------------------------


def slimq(drain: str, jobs: int, program: Program, *workloads: str) -> System:
    bulk = "100,000 lines"
    return System("slimq", "slimq", JOURNAL, bulk, drain, jobs, Brokers.slimq, program, workloads)


def on_redis(
    key: str,
    name: str,
    bulk: str,
    drain: str,
    jobs: int,
    program: Program,
    *also: str,
    workloads: Sequence[str] = ALL,
) -> list[System]:
    """Return a system on Redis with an fsync at each write, and one for each of `also`, which makes
    a difference to W1 to W4 only."""
    return [
        System(
            key,
            name if fsync == "always" else f"{name}, {fsync}",
            ALWAYS if fsync == "always" else EVERYSEC,
            bulk,
            drain,
            jobs,
            redis(fsync),
            program,
            workloads if fsync == "always" else EACH,
        )
        for fsync in ("always", *also)
    ]


def on_postgres(key: str, name: str, bulk: str, drain: str, jobs: int, program: Program) -> System:
    return System(key, name, POSTGRES, bulk, drain, jobs, Brokers.postgres, program)


def on_beanstalkd(name: str, durability: str, fsync_ms: int, jobs: int) -> System:
    bulk = "1,000 pipelined"
    start = beanstalkd(fsync_ms)
    return System("beanstalkd", name, durability, bulk, "1", jobs, start, BEANSTALKD)


SYSTEMS = (
    slimq("command, 1,000", 200_000, SLIMQ_EXEC, "W1", "W2", "W3", "W5", "W5-5M"),
    slimq("Python function, 1,000", 200_000, SLIMQ_PYTHON, "W3"),
    slimq("URL, 100", 100_000, SLIMQ_URL_100, "W3", "W9"),
    slimq("URL, 1", 10_000, SLIMQ_URL, "W3", "W4", "W6", "W7", "W10"),
    System(
        "slimq-postgres",
        "slimq on PostgreSQL",
        f"{JOURNAL}, then {POSTGRES}",
        "100,000 lines",
        "command, 1,000",
        100_000,
        Brokers.slimq_postgres,
        SLIMQ_EXEC,
        ("W3", "W5"),
    ),
    on_beanstalkd("beanstalkd -f 0", "binlog, fsync at each write", 0, 10_000),
    on_beanstalkd("beanstalkd -f 50", "binlog, fsync each 50 ms", 50, 50_000),
    System(
        "huey", "Huey on SQLite", "SQLite, synchronous=FULL", LOOP, "1", 5_000, Brokers.none, HUEY
    ),
    *on_redis("huey", "Huey on Redis", LOOP, "1", 5_000, HUEY),
    *on_redis("rq", "RQ", "enqueue_many, 1,000", "1", 600, RQ, workloads=NEVER_LATER),
    *on_redis("dramatiq", "Dramatiq", LOOP, "prefetch, 8 threads", 5_000, DRAMATIQ),
    *on_redis("celery", "Celery, late acks", LOOP, "prefetch 128", 1_500, CELERY),
    *on_redis("saq", "SAQ", "1, by 100 tasks", "100 tasks", 6_000, SAQ, "everysec"),
    *on_redis("bullmq", "BullMQ", "addBulk, 1,000", "100 at a time", 20_000, BULLMQ, "everysec"),
    on_postgres(
        "procrastinate",
        "Procrastinate",
        "batch_defer, 1,000",
        "20 at a time",
        1_000,
        PROCRASTINATE,
    ),
    on_postgres("pgqueuer", "PgQueuer", "enqueue, 1,000", "100", 30_000, PGQUEUER),
    on_postgres(
        "graphile", "Graphile Worker", "addJobs, 10,000", "local queue of 500", 50_000, GRAPHILE
    ),
    on_postgres("pg-boss", "pg-boss", "insert, 10,000", "5,000", 100_000, PG_BOSS),
    System(
        "nats",
        "NATS JetStream",
        "file, fsync each 2 min",
        "4,096 in flight",
        "fetch 500",
        50_000,
        Brokers.nats,
        NATS,
        NEVER_LATER,
    ),
    System(
        "workly",
        "Workly",
        "SQLite, as `workly dev` has it",
        "tasks:batch, 100",
        "URL, 32 at a time",
        3_000,
        workly,
        WORKLY,
    ),
)
KEYS = tuple(dict.fromkeys(system.key for system in SYSTEMS))
