"""What the tests of the SQLite store share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from clock_kit import START_MS, FakeClock
from slimq.core.job import Job
from slimq.core.jobid import Minter
from slimq.core.lifecycle import DONE, Lease, Move, done_dt
from slimq.core.limits import LEASE_MS, MIB
from slimq.store.base import Cursor, Finished, NewJobs
from slimq.store.sqlite import SqliteStore

NODE = "nodeAAAA"
TYPE = "acme/mail"
JOURNAL = "journal1"
FOR_EVER = 1 << 50


class Opener:
    """Opens stores on one file, and closes them all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.minter = Minter(NODE)
        self._stores: list[SqliteStore] = []

    def open(self, **options: Any) -> SqliteStore:
        options = {"clock": self.clock, "durable": False, "boot": "b1", "busy_ms": 20, **options}
        store = SqliteStore(self.path, **options)
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def add(
        self, store: SqliteStore, type_: str = TYPE, count: int = 1, **fields: Any
    ) -> list[str]:
        block = self.minter.block(count, self.clock.wall_ms())
        data = fields.pop("data", [b"data"] * count)
        new = NewJobs(type_, START_MS, block.ids(), data, block.first, count, **fields)
        ingest(store, [new])
        return new.ids


def ingest(store: SqliteStore, jobs: list[NewJobs]) -> None:
    at = store.cursor(JOURNAL)
    store.ingest(JOURNAL, at, Cursor(0, at.offset + 1), jobs)


def claim(store: SqliteStore, type_: str = TYPE, limit: int = 100, **wants: Any) -> list[Job]:
    return store.claim(type_, NODE, limit, lease_ms=LEASE_MS, bytes_max=MIB, **wants).jobs


def leases(jobs: list[Job]) -> list[Lease]:
    return [Lease(job.id, job.attempt) for job in jobs]


def finish(store: SqliteStore, jobs: list[Job], status: int = 200, type_: str = TYPE) -> None:
    dt = done_dt(store.now())
    moves = [Move([job.id], job.attempt, dt, DONE, status, 0, 0, b"said") for job in jobs]
    assert store.finish(NODE, [Finished(type_, moves, b"tail")]) == set()


def work(store: SqliteStore) -> None:
    """Do something that reads and writes, and must work."""
    assert store.totals().types >= 0
    assert store.cancel(["no such id"]) == []


@contextmanager
def raw(path: Path) -> Iterator[apsw.Connection]:
    """A connection of somebody else to the file."""
    db = apsw.Connection(str(path))
    try:
        yield db
    finally:
        db.close()


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path / "store.db")
    yield opener
    opener.close()
