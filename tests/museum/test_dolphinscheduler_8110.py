"""apache/dolphinscheduler#8110: a worker that had lost its registry "faked death": its jobs were
given to others while it went on with them. rails/solid_queue#778: a heartbeat that failed in
silence left a worker that was registered nowhere.

slimq: a node that cannot renew its leases kills what it runs before the store may give it away.
"""

from __future__ import annotations

import asyncio

import uvloop
from engine_kit import MakeRig, Rig, handler

from slimq.core.handler import Handler
from slimq.core.job import Batch, Ran
from slimq.core.limits import LEASE_MS, SWEEP_MS
from slimq.runner.flight import Flights


class EndlessRunner:
    """Runs until it is killed."""

    def __init__(self) -> None:
        self.running = 0

    def check(self, handler: Handler) -> None: ...

    async def run(self, batch: Batch) -> Ran:
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        raise AssertionError("it is endless")

    async def close(self) -> None: ...


def test_a_run_is_killed_before_another_node_can_get_its_job(make_rig: MakeRig) -> None:
    cut_off = make_rig("cut-off", sysid="worker01")
    other = make_rig("other", sysid="worker02", store=cut_off.memory, clock=cut_off.clock)
    cut_off.memory.put_handler(handler())
    cut_off.add(b"x")
    cut_off.step()
    uvloop.run(one_of_them_runs(cut_off, other))


async def one_of_them_runs(cut_off: Rig, other: Rig) -> None:
    runner = EndlessRunner()
    flights = Flights({"exec": runner}, cut_off.clock, lambda flight: None)
    flights.start(cut_off.air)
    await asyncio.sleep(0)
    assert runner.running == 1
    cut_off.store.down = True  # for this node alone
    for _ in range((LEASE_MS + SWEEP_MS) // 1000 + 1):
        cut_off.clock.advance(1000)
        cut_off.try_step()
        flights.watch()
        await asyncio.sleep(0.001)
        other.step()
        assert runner.running + len(other.air) <= 1, "two nodes run one job"
    assert (runner.running, len(other.air)) == (0, 1)
