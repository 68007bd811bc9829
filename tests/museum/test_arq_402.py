"""python-arq/arq#402: a job whose worker had died was tried again only after the longest timeout
of all functions; one function of three hours held up all others. #343: hours of silence.

slimq: a lease is 30 s for each job and is renewed while it runs; timeouts have no part in it.
"""

from __future__ import annotations

from engine_kit import MakeRig, handler

from slimq.core.limits import LEASE_MS, SWEEP_MS


def test_jobs_of_any_timeout_are_back_after_one_lease(make_rig: MakeRig) -> None:
    dying = make_rig("dying", sysid="worker01")
    other = make_rig("other", sysid="worker02", store=dying.memory, clock=dying.clock)
    for jobtype, timeout in (("short", "3s"), ("long", "3h")):
        dying.memory.put_handler(handler(jobtype, timeout=timeout))
        dying.add(b"x", type=f"acme/{jobtype}")
    dying.step()
    assert len(dying.air) == 2
    died_at = dying.clock.boot_ms()
    while len(other.air) < 2:
        dying.clock.advance(1000)
        other.step()
        assert other.clock.boot_ms() - died_at <= LEASE_MS + SWEEP_MS
