"""What the tests of stores share: a clock that is told the time, and a store with jobs in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres_rig import PostgresRig

from clock_kit import START_MS, FakeClock
from slimq.core.handler import Handler, Options, parse_options
from slimq.core.job import Job, Result
from slimq.core.jobid import IdBlock, Minter
from slimq.core.lifecycle import Lease, Move, settle
from slimq.core.limits import LEASE_MS, MIB
from slimq.store.base import Claim, Finished, Ingested, JobFilter, NewJobs, Node
from slimq.store.memory import MemoryStore
from slimq.store.postgres import PostgresStore
from slimq.store.sqlite import SqliteStore

JOURNAL = "journal1"
NODE, OTHER = "nodeAAAA", "nodeBBBB"
TYPE = "acme/mail"
Store = MemoryStore | SqliteStore | PostgresStore
OPTIONS = Options(backoff_min_ms=1000, backoff_max_ms=1000)


class Yard:
    """A store, perhaps seen by two nodes, and short words for what tests do with it."""

    def __init__(self, store: Store, other: Store, clock: FakeClock) -> None:
        self.store = store
        self.other = other  # the same jobs, through the store object of another node
        self.clock = clock
        self.minter = Minter(NODE)

    @property
    def now(self) -> int:
        return self.store.now()

    def block(self, count: int) -> IdBlock:
        return self.minter.block(count, self.clock.wall_ms())

    def new(self, type_: str = TYPE, count: int = 1, **fields: Any) -> NewJobs:
        """Return `count` new jobs of one request, due now."""
        block = self.block(count)
        new = NewJobs(type_, self.now, block.ids(), [b"data"] * count, block.first, count)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def ingest(self, *jobs: NewJobs, store: Store | None = None) -> Ingested:
        store = store or self.store
        cursor = store.cursor(JOURNAL)
        return store.ingest(JOURNAL, cursor, cursor._replace(offset=cursor.offset + 1), jobs)

    def add(self, type_: str = TYPE, count: int = 1, **fields: Any) -> list[str]:
        new = self.new(type_, count, **fields)
        self.ingest(new)
        return new.ids

    def ask(self, type_: str = TYPE, limit: int = 100, lock: str = NODE, **wants: Any) -> Claim:
        wants = {"lease_ms": LEASE_MS, "bytes_max": MIB, **wants}
        store = self.store if lock == NODE else self.other
        return store.claim(type_, lock, limit, **wants)

    def claim(
        self, type_: str = TYPE, limit: int = 100, lock: str = NODE, **wants: Any
    ) -> list[Job]:
        return self.ask(type_, limit, lock, **wants).jobs

    def moves(
        self, jobs: Sequence[Job], status: int, options: Options, **fields: Any
    ) -> list[Move]:
        now = self.now
        return [settle(job, Result(status, **fields), options, now, 0.5) for job in jobs]

    def finish(
        self,
        jobs: Sequence[Job],
        status: int = 200,
        *,
        type_: str = TYPE,
        lock: str = NODE,
        options: Options = OPTIONS,
        output: bytes = b"",
        **fields: Any,
    ) -> set[str]:
        moves = self.moves(jobs, status, options, **fields)
        store = self.store if lock == NODE else self.other
        return store.finish(lock, [Finished(type_, moves, output)])

    def run(
        self, status: int = 200, type_: str = TYPE, limit: int = 100, **fields: Any
    ) -> list[str]:
        """Claim and finish jobs with one status; return their ids."""
        jobs = self.claim(type_, limit)
        self.finish(jobs, status, type_=type_, **fields)
        return [job.id for job in jobs]

    def purge(self, **wants: int) -> int:
        keep = {"ok_before": 0, "failed_before": 0, "bytes_max": 1 << 40, "limit": 1000}
        return self.store.purge(**(keep | wants))

    def counts(self, type_: str = TYPE) -> tuple[int, int, int, int, int]:
        view = self.store.type(type_)
        assert view is not None
        return view.waiting, view.running, view.ok, view.failed, view.error

    def all_ids(self, **where: Any) -> list[str]:
        found = self.store.jobs(JobFilter(**where), before="", limit=1000)
        return [job.id for job in found]


def lease_of(job: Job) -> Lease:
    return Lease(job.id, job.attempt)


def ids_of(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def node(sysid: str = NODE, **about: Any) -> Node:
    return Node(sysid, START_MS, 0, about)


def handler(jobtype: str = "mail", client: str = "acme", **written: Any) -> Handler:
    return Handler(
        client=client,
        jobtype=jobtype,
        version=0,
        lang="exec",
        body=["cat", "-"],
        options=parse_options("exec", written),
        written=written,
    )


MakeStore = Callable[[], Store]


def make_pair(kind: str, folder: Path, clock: FakeClock) -> tuple[Store, Store]:
    if kind == "memory":
        memory = MemoryStore(clock)
        return memory, memory
    path = folder / "store.db"
    return (
        SqliteStore(path, clock=clock, durable=False, boot="boot1"),
        SqliteStore(path, clock=clock, durable=True, boot="boot1"),
    )


@contextmanager
def open_yard(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Yard]:
    """Open a store of this kind ("memory", "sqlite", "postgres") for a test."""
    clock = FakeClock()
    if kind == "postgres":
        rig = PostgresRig(request.getfixturevalue("postgres"), clock)
        with closing(rig), closing(rig.store()) as store, closing(rig.store()) as other:
            yield Yard(store, other, clock)
    else:
        store, other = make_pair(kind, folder, clock)
        with closing(store), closing(other):
            yield Yard(store, other, clock)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    """Every kind of store."""
    with open_yard(request.param, request, tmp_path) as yard:
        yield yard


@pytest.fixture(params=["sqlite", "postgres"])
def shared_yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    """Every kind of store that threads may use at a time, each by a store object of its own."""
    with open_yard(request.param, request, tmp_path) as yard:
        yield yard
