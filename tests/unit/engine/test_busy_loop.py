"""Leases are kept on a thread of their own: no handler and no caller can hold it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from engine_kit import TYPE, Rig, handler

from slimq.core.job import Batch, Ran, Result
from slimq.core.limits import LEASE_MS, RENEW_MS
from slimq.runner.flight import Flights

PATIENCE_S = 10


class BusyRunner:
    """Keeps the thread of its loop to itself until it is let go, as a bug of a runner would."""

    lang = "exec"

    def __init__(self) -> None:
        self.busy = threading.Event()
        self.let_go = threading.Event()

    def check(self, handler: object) -> None:
        pass

    async def run(self, batch: Batch) -> Ran:
        self.busy.set()
        self.let_go.wait(PATIENCE_S)
        return Ran([Result(200) for _ in batch.jobs])

    async def close(self) -> None:
        pass


@contextmanager
def loop_of_handlers() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


@pytest.mark.timeout(60)
def test_leases_are_renewed_while_the_loop_that_runs_the_handlers_is_busy(rig: Rig) -> None:
    (id_,) = rig.add(b"long")
    rig.memory.put_handler(handler())
    rig.step()
    runner, landed = BusyRunner(), threading.Event()
    flights = Flights({"exec": runner}, rig.clock, lambda flight: landed.set())
    with loop_of_handlers() as loop:
        loop.call_soon_threadsafe(flights.start, list(rig.air))
        assert runner.busy.wait(PATIENCE_S)
        rig.clock.advance(RENEW_MS)
        renewal = threading.Thread(target=rig.dispatcher.renew, daemon=True)
        renewal.start()
        renewal.join(2)
        was_held_up = renewal.is_alive()
        runner.let_go.set()
        renewal.join(PATIENCE_S)
        assert landed.wait(PATIENCE_S)
    assert not was_held_up
    rig.clock.advance(LEASE_MS - 1)
    assert rig.memory.free(1).again == 0
    assert rig.job(id_).type == TYPE
