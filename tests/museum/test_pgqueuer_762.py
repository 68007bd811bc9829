"""janbjorge/pgqueuer#762: the limit of how many jobs of a kind run at a time was checked before
the claim and passed by it: several workers, or one in a hurry, ran more.

slimq: nodes ask the store for permits before they claim, and a claim is never larger than the
permits that are free: the limit of all nodes together is exact at every moment.
"""

from __future__ import annotations

from random import Random

import pytest
from engine_kit import MakeRig, handler

LIMIT = 3
TURNS = 300


@pytest.mark.parametrize("seed", range(3))
def test_never_more_batches_of_a_type_run_than_its_handler_allows(
    make_rig: MakeRig, seed: int
) -> None:
    chance = Random(seed)
    one = make_rig("one", sysid="worker01", slots=50)
    two = make_rig("two", sysid="worker02", slots=50, store=one.memory, clock=one.clock)
    one.memory.put_handler(handler(concurrency=LIMIT, batch_size=2))
    most = 0
    for _ in range(TURNS):
        for rig in (one, two):
            rig.add(*(b"x" for _ in range(chance.randint(0, 5))), type="acme/mail")
            rig.step()
            running = len(one.air) + len(two.air)
            most = max(most, running)
            assert running <= LIMIT
            for flight in chance.sample(rig.air, chance.randint(0, len(rig.air))):
                rig.land(flight, chance.choice((200, 400)))
            one.clock.advance(chance.choice((1, 1000)))
    assert most == LIMIT
    assert one.counts()[2] > 0
