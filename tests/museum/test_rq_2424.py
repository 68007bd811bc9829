"""rq/rq#2424: a job was logged as OK, and later moved to the failed ones as abandoned.
windmill-labs/windmill#9214: the success of a job was flipped to a failure by a late worker.

slimq: done is done. No sweep, no late result and no end of a node changes a job that is done.
"""

from __future__ import annotations

import pytest
from store_kit import NODE, OTHER, Yard, lease_of

from slimq.core.limits import LEASE_MS


@pytest.mark.parametrize("late", [102, 200, 400, 500])
def test_success_stays_success_whatever_happens_afterwards(yard: Yard, late: int) -> None:
    (id_,) = yard.add()
    (lost,) = yard.claim()
    yard.clock.advance(LEASE_MS)
    yard.other.free(10)
    (job,) = yard.claim(lock=OTHER)
    yard.finish([job], lock=OTHER, text=b"it worked")
    before = yard.store.job(id_)
    assert yard.finish([lost], late) == {id_}
    assert yard.store.renew(NODE, [lease_of(lost)], lease_ms=LEASE_MS) == {id_}
    assert yard.store.release(NODE, [lease_of(lost)]) == 0
    yard.clock.advance(10 * LEASE_MS)
    assert yard.store.free(10) == (0, 0, {})
    for node in (NODE, OTHER):
        assert yard.store.free(10, lock=node) == (0, 0, {})
    assert yard.store.job(id_) == before
    assert before is not None
    assert (before.status, before.result) == (200, b"it worked")
