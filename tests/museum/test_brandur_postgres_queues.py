"""brandur.org/postgres-queues: a transaction that stays open keeps the dead rows of done jobs from
being removed. Each claim passes over all of them, the queue gets slower, and its backlog grows
without end.

slimq: a claim starts from where the last one found something. What it reads depends on what it
returns, however many dead rows lie before it.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from postgres_plan_kit import Watched
from postgres_rig import PostgresRig
from store_kit import Yard

from clock_kit import FakeClock
from postgres_kit import Server
from proof_kit import Proof
from slimq.core.limits import LEASE_MS
from slimq.store.postgres import PostgresStore
from slimq.store.postgres_floor import Floors

FEW = 50


def blocks_of_claims(watched: Watched) -> list[int]:
    """Return how many blocks each claim read, at most, in one step of its plan."""
    claims = [plan for plan in watched.plans() if "SKIP LOCKED" in plan.query]
    return [max(step.blocks for step in plan.reading("job")) for plan in claims]


@pytest.mark.proof("T15")
def test_a_claim_does_not_pass_over_dead_rows_that_an_old_snapshot_holds(
    postgres: Server, proof: Proof
) -> None:
    with closing(PostgresRig(postgres, FakeClock())) as rig:
        dead = proof.size(submission=20_000, release=1_000_000)
        floored, from_start = blocks_behind_dead_rows(postgres, rig, dead)
    assert floored < 4 * FEW + 20
    assert from_start > dead / 100, "else this would be no test"
    proof.report(dead_rows=dead, blocks_of_a_claim=floored, blocks_without_floor=from_start)


def blocks_behind_dead_rows(postgres: Server, rig: PostgresRig, dead: int) -> list[int]:
    """Return what a claim costs a store that knows where to start, and one that does not."""
    watched = Watched(postgres, rig.url)
    clock = rig.clock

    def open_store(floors: Floors) -> PostgresStore:
        return PostgresStore(watched.url({}), clock=clock, floors=floors)

    with (
        closing(open_store(Floors())) as store,
        closing(open_store(Floors(full_every_ms=0))) as naive,
        postgres.connect(rig.url.rpartition("/")[2]) as forgotten,
    ):
        yard = Yard(store, naive, clock)
        for at in range(0, dead, 20_000):
            yard.add(count=min(20_000, dead - at))
        forgotten.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert forgotten.execute("SELECT count(*) FROM slimq.job").fetchone() == (dead,)
        clock.advance(LEASE_MS)
        while jobs := yard.claim(limit=20_000):
            yard.finish(jobs)
        yard.add(count=4 * FEW)
        watched.forget()
        for lock in ("nodeAAAA", "nodeBBBB"):
            assert len(yard.claim(limit=FEW, lock=lock)) == FEW
        return blocks_of_claims(watched)
