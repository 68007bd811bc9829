"""riverqueue/river#1258: 5,133 jobs were "running" for up to 91 days after their workers had died.
graphile/worker#204, #222, #400 (4 h), #254 (a queue, for good), timgit/pg-boss#250, #436,
tobymao/saq#127 and windmill-labs/windmill#5519 are of this kind.

slimq: whoever died, and however often, its jobs are held for a lease and a sweep at most.
"""

from __future__ import annotations

from random import Random

import pytest
from engine_kit import MakeRig, handler

from proof_kit import Proof
from slimq.core.limits import LEASE_MS, SWEEP_MS


@pytest.mark.proof("P9")
def test_after_many_crashes_at_random_moments_no_job_is_held_by_the_dead(
    make_rig: MakeRig, proof: Proof
) -> None:
    chance = Random(proof.seed)
    crashes = proof.size(submission=300, release=5_000)
    rig = make_rig("dying", sysid="d0000000", ok_ms=60_000)
    witness = make_rig("witness", sysid="witness0", store=rig.memory, clock=rig.clock, ok_ms=60_000)
    rig.memory.put_handler(handler(batch_size=2))
    dead: list[tuple[str, int]] = []  # sysid and time of those that may hold jobs still
    held = 0
    for number in range(crashes):
        rig.add(*(b"x" for _ in range(chance.randint(1, 5))))
        for _ in range(chance.randint(1, 4)):
            rig.step()
            for flight in chance.sample(rig.air, chance.randint(0, len(rig.air))):
                rig.land(flight, 200)
        held += len(rig.memory.leases(rig.sysid))
        dead.append((rig.sysid, rig.clock.boot_ms()))
        rig.close()
        rig.open_journal()
        rig.boot(f"d{number + 1:07}")
        rig.clock.advance(chance.randint(1, 3_000))
        witness.step()
        for flight in list(witness.air):
            witness.land(flight, 200)
        over = rig.clock.boot_ms() - LEASE_MS - SWEEP_MS
        while dead and dead[0][1] <= over:
            sysid, _ = dead.pop(0)
            assert rig.memory.leases(sysid) == set()
    assert held > crashes / 10, "hardly a crash hit a running job"
    proof.report(crashes=crashes, leases_of_the_dead=held, held_too_long=0)
