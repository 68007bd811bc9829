"""What is dead or done in PostgreSQL costs those that work little, and goes in whole slots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from postgres_rig import PostgresRig
from psycopg import Connection
from store_kit import Yard, lease_of

from clock_kit import FakeClock
from postgres_kit import Server
from slimq.core.limits import LEASE_MS
from slimq.store.base import Node
from slimq.store.counts import FAILED, OK
from slimq.store.postgres import SLOTS_MS
from slimq.store.postgres_floor import FULL_EVERY_MS
from slimq.store.postgres_tend import DAY_MS, LARGE_SLOT, SLOTS_AHEAD, slot_of

DEAD = 20_000
FEW = 50


@pytest.fixture
def rig(postgres: Server) -> Iterator[PostgresRig]:
    with closing(PostgresRig(postgres, FakeClock())) as rig:
        yield rig


@pytest.fixture
def yard(rig: PostgresRig) -> Iterator[Yard]:
    with closing(rig.store()) as store, closing(rig.store()) as other:
        yield Yard(store, other, rig.clock)


@pytest.fixture
def reader(postgres: Server, rig: PostgresRig) -> Iterator[Connection]:
    with closing(postgres.connect(name_of(rig))) as reader:
        yield reader


def name_of(rig: PostgresRig) -> str:
    return rig.url.rpartition("/")[2]


def test_a_job_that_another_node_brings_late_is_found_within_the_time_of_a_full_look(yard: Yard):
    yard.add(count=3)
    yard.clock.advance(LEASE_MS)
    assert len(yard.claim(limit=2)) == 2
    late = yard.new(dt=yard.now - 2 * LEASE_MS)
    yard.ingest(late, store=yard.other)
    assert late.ids[0] not in {job.id for job in yard.claim(limit=1)}
    yard.clock.advance(FULL_EVERY_MS)
    assert [job.id for job in yard.claim()] == late.ids


def test_a_job_that_comes_late_through_this_node_is_found_at_once(yard: Yard):
    yard.add(count=3)
    yard.clock.advance(LEASE_MS)
    yard.claim(limit=2)
    late = yard.new(dt=yard.now - 2 * LEASE_MS)
    yard.ingest(late)
    assert [job.id for job in yard.claim(limit=1)] == late.ids


def test_a_job_that_was_given_back_is_found_at_once(yard: Yard):
    yard.add(count=3)
    yard.clock.advance(LEASE_MS)
    [first, *_] = yard.claim(limit=2)
    yard.store.release("nodeAAAA", [lease_of(first)])
    assert [job.id for job in yard.claim(limit=1)] == [first.id]


# --- slots of done jobs ------------------------------------------------------------------


def slots(rig: PostgresRig) -> dict[int, int]:
    """Return how many jobs are in each slot."""
    rows = rig.db.execute("SELECT slot, count(*) FROM slimq.done GROUP BY 1").fetchall()
    counts = dict(rows)
    found = rig.db.execute(
        "SELECT substr(relname, 6)::int FROM pg_class WHERE relname ~ '^done_[0-9]+$'"
    )
    return {slot: counts.get(slot, 0) for (slot,) in found.fetchall()}


def in_other(rig: PostgresRig) -> int:
    (count,) = rig.db.execute("SELECT count(*) FROM slimq.done_other").fetchone() or (None,)
    assert isinstance(count, int)
    return count


def register(yard: Yard) -> None:
    assert yard.store.register(Node("nodeAAAA", yard.now, yard.now, {}))


def purge_all(yard: Yard) -> int:
    """Purge all that ended before today."""
    border = yard.now // DAY_MS * DAY_MS
    return yard.purge(ok_before=border, failed_before=border)


def next_day(yard: Yard, days: int = 1) -> None:
    yard.clock.advance(days * DAY_MS)


def make_large(rig: PostgresRig, slot: int) -> None:
    """Let the statistics say that a slot is large."""
    large = "UPDATE pg_class SET reltuples = %s WHERE relname = %s"
    rig.db.execute(large, (LARGE_SLOT + 1, f"done_{slot}"))


def read(reader: Connection, slot: int) -> None:
    """Begin to read a slot, as a backup does, and do not end."""
    reader.execute("BEGIN")
    reader.execute(f"SELECT FROM slimq.done_{slot}".encode())


def test_the_slots_of_the_next_days_are_there_before_a_job_is_done(yard: Yard, rig: PostgresRig):
    register(yard)
    today = slot_of(yard.now, OK)
    assert set(slots(rig)) == set(range(today, today + 2 * SLOTS_AHEAD))
    next_day(yard)
    purge_all(yard)
    assert max(slots(rig)) == today + 2 * SLOTS_AHEAD + 1


def test_jobs_lie_in_the_slot_of_their_day_and_kind(yard: Yard, rig: PostgresRig):
    register(yard)
    yard.add(count=5)
    yard.run(limit=3)
    yard.run(400)
    today = slots(rig)
    assert (today[slot_of(yard.now, OK)], today[slot_of(yard.now, FAILED)]) == (3, 2)
    assert in_other(rig) == 0


def test_a_past_slot_is_dropped_as_a_whole_and_the_counts_stay_exact(yard: Yard, rig: PostgresRig):
    register(yard)
    slot = slot_of(yard.now, OK)
    yard.add(count=9)
    yard.run(limit=4, output=b"tail")
    yard.run(400, limit=3)
    next_day(yard)
    yard.run(limit=1)
    assert yard.counts() == (1, 0, 5, 3, 0)
    assert purge_all(yard) == 7
    assert not {slot, slot + 1} & set(slots(rig))
    assert yard.counts() == (1, 0, 1, 0, 0)
    totals = yard.store.totals()
    assert (totals.ok, totals.purged) == (1, 7)
    for table in ("output", "run"):
        assert rig.db.execute(f"SELECT FROM slimq.{table}".encode()).fetchall() == []


def test_a_child_whose_parent_may_run_again_outlives_its_slot(yard: Yard, rig: PostgresRig):
    register(yard)
    [parent] = yard.add()
    [child] = yard.add("acme/child", parent=parent)
    yard.add("acme/child", count=2)
    yard.run(type_="acme/child")
    next_day(yard)
    assert purge_all(yard) == 2
    assert yard.store.job(child) is not None
    assert yard.counts("acme/child") == (0, 0, 1, 0, 0)
    assert in_other(rig) == 1
    yard.run()
    assert purge_all(yard) == 1
    assert yard.store.job(child) is None


def test_of_a_large_slot_no_single_jobs_are_deleted(yard: Yard, rig: PostgresRig):
    register(yard)
    slot = slot_of(yard.now, OK)
    yard.add(count=4)
    yard.run()
    make_large(rig, slot)
    yard.clock.advance(1000)
    assert yard.purge(ok_before=yard.now, failed_before=yard.now) == 0
    next_day(yard)
    assert purge_all(yard) == 4
    assert slot not in slots(rig)


def test_a_slot_that_someone_reads_is_dropped_by_a_later_purge(
    yard: Yard, rig: PostgresRig, reader: Connection
):
    register(yard)
    slot = slot_of(yard.now, OK)
    yard.add(count=4)
    yard.run()
    make_large(rig, slot)
    next_day(yard)
    read(reader, slot)
    assert purge_all(yard) == 0
    assert yard.counts() == (0, 0, 4, 0, 0)
    reader.execute("COMMIT")
    yard.clock.advance(SLOTS_MS)
    assert purge_all(yard) == 4
    assert slot not in slots(rig)


def test_the_work_of_others_goes_on_when_a_slot_cannot_be_dropped(
    yard: Yard, rig: PostgresRig, reader: Connection
):
    register(yard)
    slot = slot_of(yard.now, OK)
    yard.add(count=4)
    yard.run()
    next_day(yard)
    read(reader, slot)
    purge_all(yard)
    added = yard.add()
    assert yard.run() == added
