"""rails/solid_queue#589 (mended in 1.5.0): a worker whose heartbeats did not get through was
pruned while it lived. Its jobs were marked failed, then it finished them: both finished and failed.

slimq: a node that is silent for a lease loses its jobs, and with them the right to finish them.
However late it answers, a job has one end.
"""

from __future__ import annotations

import pytest
from store_kit import OTHER, Yard

from slimq.core.limits import CRASHES_MAX, LEASE_MS


def silent(yard: Yard) -> None:
    """No heartbeat and no renewal gets through for a whole lease; somebody sweeps."""
    yard.clock.advance(LEASE_MS)
    yard.other.free(10)


@pytest.mark.parametrize("late", [200, 400, 500])
def test_a_job_that_was_given_up_is_not_finished_too(yard: Yard, late: int) -> None:
    (id_,) = yard.add()
    for _ in range(CRASHES_MAX):
        (job,) = yard.claim()
        silent(yard)
    assert yard.finish([job], late) == {id_}
    view = yard.store.job(id_)
    assert view is not None
    assert (view.status, len(view.runs)) == (521, CRASHES_MAX)
    assert yard.counts() == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("late", [200, 400, 500])
def test_a_job_that_another_node_runs_is_not_finished_by_the_silent_one(
    yard: Yard, late: int
) -> None:
    (id_,) = yard.add()
    (lost,) = yard.claim()
    silent(yard)
    (job,) = yard.claim(lock=OTHER)
    assert yard.finish([lost], late) == {id_}
    assert yard.counts() == (0, 1, 0, 0, 0)
    assert yard.finish([job], lock=OTHER) == set()
    assert yard.counts() == (0, 0, 1, 0, 0)
