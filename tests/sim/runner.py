"""The handlers of a simulation: what a job does stands in its data. They run on virtual time,
and what they print is judged by the code that judges real commands.

    ok | fail | retry N | error N | children N | poison | killer | mute | chatty | garbage
    deaf | half

`retry` and `error` do so N times, then it is well. `poison` kills its context, `killer` the
node. `mute` prints no result, `chatty` two, `garbage` none that can be read, `half` dies
behind its result. `deaf` goes on when it is told to stop, and answers late.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sim.world import Violation
from slimq.core.handler import Handler
from slimq.core.job import Batch, Job, Ran
from slimq.core.status import Outcome, outcome_of
from slimq.runner.command_run import Ended
from slimq.runner.command_verdict import judge

if TYPE_CHECKING:
    from sim.node import SimNode

DEAF_MS = 40_000
KILLED = -9


class SimRunner:
    """Keeps `slimq.runner.base.Runner`."""

    lang = "exec"

    def __init__(self, node: SimNode) -> None:
        self._node = node

    def check(self, handler: Handler) -> None:
        """Every handler can run."""

    async def close(self) -> None:
        """Nothing is held."""

    async def run(self, batch: Batch) -> Ran:
        node, process = self._node, self._node.process
        if not process.alive:  # it died before the loop came to it
            raise asyncio.CancelledError
        try:
            runs = [node.sim.runs.start(job, process, node) for job in batch.jobs]
        except Violation as broken:  # a runner that raises has a bug, to those who call it
            node.world.broken = broken
            raise
        ms = max(_ms(job) for job in batch.jobs)
        timeout = batch.handler.options.timeout_ms
        end = "killed"
        try:
            await self._take(batch, min(ms, timeout))
            ran = judge(self._ended(batch, ms > timeout), len(batch.jobs), batch.handler.options)
            end = ""
        finally:
            for run in runs:
                run.end = end
        for index, run in enumerate(runs):
            outcome = outcome_of(ran.results[index].status)
            again = outcome in (Outcome.RETRY, Outcome.ERROR) or index in ran.suspects
            run.end = "again" if again else "over"
        return ran

    async def _take(self, batch: Batch, ms: int) -> None:
        deaf = any(_verb(job) == "deaf" for job in batch.jobs)
        try:
            if any(_verb(job) == "killer" for job in batch.jobs):
                self._node.crash_soon("killed by a job")
                await asyncio.sleep(3600)
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:
            if not deaf or not self._node.process.alive:
                raise
            self._node.hit("deaf runner", batch.jobs[0].id)
            await asyncio.sleep(DEAF_MS / 1000)

    def _ended(self, batch: Batch, timed_out: bool) -> Ended:
        output = b""
        for index, job in enumerate(batch.jobs):
            if _verb(job) == "poison":
                return Ended(KILLED, output, b"poisoned")
            if timed_out and index >= len(batch.jobs) // 2:
                return Ended(KILLED, output, b"", timed_out=True)
            output += _printed(job)
            if _verb(job) == "half":
                return Ended(1, output, b"died after it")
        return Ended(0, output, b"well")


def _words(job: Job) -> list[str]:
    return job.data.decode().split("|")[0].split()


def _verb(job: Job) -> str:
    return _words(job)[0]


def _number(job: Job) -> int:
    return int(_words(job)[1])


def _ms(job: Job) -> int:
    return int(job.data.decode().split("|")[1])


def _printed(job: Job) -> bytes:
    verb = _verb(job)
    if verb == "fail":
        return b"422 cannot be\n"
    if verb in ("retry", "error") and job.attempt <= _number(job):
        return b"102 not now\n" if verb == "retry" else b"500 failed\n"
    if verb == "children":
        count = _number(job) + job.attempt % 2  # a second try adds one more, or one less
        added = b"".join(b"#J: plain|ok 0|%d|%d\n" % (50 * n, n) for n in range(count))
        return b"# a line of a log\n" + added + b"200 added\n"
    return _LIES.get(verb, b"200 well\n")


_LIES = {"mute": b"", "chatty": b"200 once\n200 twice\n", "garbage": b"\xff\xfe?\n"}
