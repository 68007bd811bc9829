"""janbjorge/pgqueuer#762: the limit of how many jobs of a kind run at a time was checked before
the claim and passed by it: several workers, or one in a hurry, ran more.

slimq: batches are counted by the one thread that claims them, and a claim is never larger than
the slots that are free: the limit of a node is exact at every moment.
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
    rig = make_rig(slots=50)
    rig.memory.put_handler(handler(concurrency=LIMIT, batch_size=2))
    most = 0
    for _ in range(TURNS):
        rig.add(*(b"x" for _ in range(chance.randint(0, 9))), type="acme/mail")
        rig.step()
        most = max(most, len(rig.air))
        assert len(rig.air) <= LIMIT
        for flight in chance.sample(rig.air, chance.randint(0, len(rig.air))):
            rig.land(flight, chance.choice((200, 400)))
        rig.clock.advance(chance.choice((1, 1000)))
    assert most == LIMIT
