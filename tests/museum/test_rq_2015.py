"""rq/rq#2015: a worker that was killed between taking a job from the queue and starting it lost
it: it was in no list any more. coleifer/huey#559, #733, #844 ("task is lost") and Sidekiq's
BRPOP are the same.

slimq: a job never leaves the store to be run. To take it is to lease it, in one transaction.
"""

from __future__ import annotations

from engine_kit import MakeRig, handler
from store_kit import NODE, OTHER, Yard

from slimq.core.limits import LEASE_MS


def test_what_was_claimed_and_never_started_runs_again_after_the_lease(yard: Yard) -> None:
    ids = yard.add(count=10)
    yard.claim(limit=5)  # the answer got lost, and with it the node
    assert sorted(yard.all_ids()) == ids
    yard.clock.advance(LEASE_MS)
    assert yard.other.free(10).again == 5
    assert [job.id for job in yard.claim(lock=OTHER)] == ids


def test_a_node_that_starts_again_takes_back_at_once_what_it_claimed_and_never_started(
    yard: Yard,
) -> None:
    ids = yard.add(count=10)
    yard.claim(limit=5)
    assert yard.store.free(10, lock=NODE).again == 5
    assert [job.id for job in yard.claim()] == ids


def test_whatever_call_to_the_store_is_the_last_one_every_job_runs(make_rig: MakeRig) -> None:
    """The node dies at the n-th call from the first look to the end of the job, for every n."""
    last = 0
    while True:
        rig = make_rig(f"dies-at-{last}", sysid="dying000")
        rig.memory.put_handler(handler())
        (id_,) = rig.add(b"x")
        calls = dies_at(rig, last)
        rig.store.before = None
        rig.boot("alive000", former=["dying000"])
        for _ in range(5):
            rig.step()
            for flight in list(rig.air):
                rig.land(flight, 200)
        assert rig.job(id_).status == 200, last
        if calls < last:
            assert last > 5
            return
        last += 1


class Died(Exception):
    """The process is gone."""


def dies_at(rig, last: int) -> int:
    """Work until the call number `last` is to be made; return how many were made."""
    calls = 0

    def count(name: str) -> None:
        nonlocal calls
        if calls == last:
            raise Died(name)
        calls += 1

    rig.store.before = count
    try:
        for _ in range(3):
            rig.step()
            for flight in list(rig.air):
                rig.land(flight, 200)
    except Died:
        return last
    return calls
