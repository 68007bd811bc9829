"""Batches in the air: runs them on the loop, and kills those whose lease ends. Its step
on the loop costs nothing while nothing runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice

from slimq.core import status as statuses
from slimq.core.job import Batch, Ran, Result
from slimq.core.limits import LEASE_MARGIN_MS, LOG_ITEMS_MAX
from slimq.runner.base import Runner
from slimq.runner.split import run_split
from slimq.system.clock import Clock

WATCH_S = 1.0


class Flight:
    """A batch that runs. `deadline_ms` (boot time) is when its lease ends; the engine's
    thread moves it at each renewal."""

    __slots__ = ("batch", "deadline_ms", "ran", "started_at", "task")

    def __init__(self, batch: Batch, started_at: int, deadline_ms: int) -> None:
        self.batch = batch
        self.started_at = started_at
        self.deadline_ms = deadline_ms
        self.ran: Ran | None = None  # None when it was killed
        self.task: asyncio.Task[None] | None = None


def first_ids(flights: Iterable[Flight]) -> list[str]:
    """Return the ids of jobs that run, as many as a line of the log shows."""
    ids = (job.id for flight in flights for job in flight.batch.jobs)
    return list(islice(ids, LOG_ITEMS_MAX))


class Flights:
    """`landed` is called on the loop with each flight that ended."""

    def __init__(
        self, runners: Mapping[str, Runner], clock: Clock, landed: Callable[[Flight], None]
    ) -> None:
        self._runners = runners
        self._clock = clock
        self._landed = landed
        self._all: dict[Flight, None] = {}  # in order of their start

    def start(self, flights: list[Flight]) -> None:
        for flight in flights:
            self._all[flight] = None
            flight.task = asyncio.create_task(self._fly(flight))
            # Not in `_fly`: a task that is cancelled before its first step runs none of it.
            flight.task.add_done_callback(partial(self._end, flight))

    def kill(self, flights: list[Flight]) -> None:
        for flight in flights:
            if flight.task is not None:
                flight.task.cancel()

    def watch(self) -> None:
        """Kill runs that could not be renewed, before the store may give their jobs away."""
        self.kill(list(filter(self._is_late, self._all)))

    def _is_late(self, flight: Flight) -> bool:
        return self._clock.boot_ms() > flight.deadline_ms - LEASE_MARGIN_MS

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._all:
            await asyncio.wait([flight.task for flight in self._all if flight.task])

    def kill_all(self) -> None:
        self.kill(list(self._all))

    async def _fly(self, flight: Flight) -> None:
        if self._is_late(flight):  # the process stood still since the claim
            return
        flight.ran = await run_split(self._guarded, flight.batch)

    def _end(self, flight: Flight, _: asyncio.Task[None]) -> None:
        self._all.pop(flight, None)
        self._landed(flight)

    async def _guarded(self, batch: Batch) -> Ran:
        """A runner that raises has a bug; its jobs must not be lost for it. A batch is not run
        in parts any more when it was killed, also where its runner took no notice."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        try:
            return await self._runners[batch.handler.lang].run(batch)
        except Exception as error:  # a bug of a runner: said in the result of every job
            text = f"bug in the runner: {type(error).__name__}"
            return Ran([Result(statuses.ERROR, error=text) for _ in batch.jobs])
