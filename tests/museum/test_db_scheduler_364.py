"""kagkarlsson/db-scheduler#364 and mlflow/mlflow#25199: leases were judged by the clock of whoever
looked. A machine whose clock was ahead took jobs from living workers.

slimq: leases are judged by the clock of the store alone. A node may be wrong by hours.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from store_kit import NODE, OTHER, Store, Yard, node

from clock_kit import FakeClock
from slimq.core.limits import LEASE_MS
from slimq.store.postgres import PostgresStore
from slimq.store.sqlite import SqliteStore
from slimq.system.clock import SystemClock

HOUR_MS = 3_600_000
JOBS = 20


def open_with_clock_off(kind: str, place: str, off_ms: int) -> Store:
    """Open the store as a node does whose clock is off by so much."""
    clock = FakeClock()
    clock.wall = SystemClock().wall_ms() + off_ms
    clock.boot = SystemClock().boot_ms()
    if kind == "postgres":
        return PostgresStore(place, clock=clock)
    return SqliteStore(Path(place), clock=clock, durable=False, boot="boot1")


@pytest.mark.parametrize("off_ms", [HOUR_MS, -HOUR_MS], ids=["ahead", "behind"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_node_whose_clock_is_off_by_an_hour_takes_no_lease_of_a_living_one(
    kind: str, off_ms: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path / "store.db")
    if kind == "postgres":
        place = request.getfixturevalue("database")
    with (
        closing(open_with_clock_off(kind, place, 0)) as right,
        closing(open_with_clock_off(kind, place, off_ms)) as wrong,
    ):
        assert right.register(node(NODE))
        assert wrong.register(node(OTHER))
        yard = Yard(right, wrong, FakeClock())
        yard.add(count=JOBS)
        held = yard.claim(limit=JOBS // 2)
        assert wrong.free(JOBS) == (0, 0, {})
        others = yard.claim(lock=OTHER)
        assert len(held) + len(others) == JOBS
        assert {job.id for job in held}.isdisjoint(job.id for job in others)
        assert right.free(JOBS) == (0, 0, {})
        assert abs(wrong.now() - right.now()) < LEASE_MS
        assert yard.finish(held) == set()
        assert yard.finish(others, lock=OTHER) == set()
        assert len(right.leases(NODE)) == len(right.leases(OTHER)) == 0
