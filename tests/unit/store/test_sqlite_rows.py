"""What a SQLite store keeps in its file, and what it does not."""

from __future__ import annotations

import pytest
from sqlite_kit import NODE, START_MS, TYPE, Opener, claim, finish, raw

from slimq.core.lifecycle import FREE, Move
from slimq.core.limits import RUNS_MAX
from slimq.store.base import Finished
from slimq.store.sqlite import SqliteStore
from slimq.store.sqlite_ingest import INLINE_MAX

FAR = START_MS + (1 << 40)


def again(store: SqliteStore, output: bytes = b"tail") -> None:
    """Run all ready jobs, which then are ready again."""
    jobs = claim(store)
    moves = [Move([job.id], job.attempt, store.now(), FREE, 102, 0, 0) for job in jobs]
    assert store.finish(NODE, [Finished(TYPE, moves, output)]) == set()


def rows(opener: Opener, table: str) -> int:
    with raw(opener.path) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").get)


def test_nothing_is_left_of_a_job_that_is_purged(opener: Opener):
    store = opener.open()
    opener.add(store, count=3, data=[b"x" * (INLINE_MAX + 1)] * 3)
    again(store)
    finish(store, claim(store))
    tables = ("job", "large", "run", "output")
    assert [rows(opener, table) for table in tables] == [3, 3, 3, 2]
    assert store.purge(ok_before=FAR, failed_before=0, bytes_max=1 << 40, limit=2) == 2
    assert [rows(opener, table) for table in tables] == [1, 1, 1, 2]
    assert store.purge(ok_before=FAR, failed_before=0, bytes_max=1 << 40, limit=2) == 1
    assert [rows(opener, table) for table in tables] == [0, 0, 0, 0]


def test_a_job_that_is_ok_at_the_first_try_is_one_row(opener: Opener):
    store = opener.open()
    opener.add(store, count=5)
    finish(store, claim(store))
    assert [rows(opener, table) for table in ("job", "run", "large")] == [5, 0, 0]


def test_the_output_of_a_batch_is_kept_once_and_not_at_all_when_there_is_none(opener: Opener):
    store = opener.open()
    opener.add(store, count=5)
    again(store)
    assert rows(opener, "output") == 1
    again(store, b"")
    assert (rows(opener, "output"), rows(opener, "run")) == (1, 10)


def test_old_runs_and_their_outputs_are_deleted(opener: Opener):
    store = opener.open()
    opener.add(store)
    for _ in range(RUNS_MAX + 7):
        again(store)
    assert (rows(opener, "run"), rows(opener, "output")) == (RUNS_MAX, RUNS_MAX)


@pytest.mark.parametrize(("size", "large"), [(INLINE_MAX, 0), (INLINE_MAX + 1, 1)])
def test_large_data_does_not_move_with_its_job(opener: Opener, size: int, large: int):
    store = opener.open()
    opener.add(store, data=[b"x" * size])
    assert rows(opener, "large") == large
    (job,) = claim(store)
    assert len(job.data) == size


def test_a_key_a_day_old_is_deleted(opener: Opener):
    store = opener.open()
    store.cancel(opener.add(store, key="k", digest="d"))
    opener.add(store, key="k", digest="d")
    assert (rows(opener, "idempotency"), rows(opener, "alias")) == (1, 1)
    opener.clock.advance(25 * 3600 * 1000)
    store.purge(ok_before=FAR, failed_before=FAR, bytes_max=1 << 40, limit=9)
    assert (rows(opener, "idempotency"), rows(opener, "alias")) == (0, 0)
