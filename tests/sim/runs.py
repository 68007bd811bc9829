"""Which runs there were, and why a job ran again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from sim.ledger import require
from sim.world import Process
from slimq.core.job import Job

if TYPE_CHECKING:
    from sim.node import SimNode


class Run(msgspec.Struct):
    """`end` is "" while it goes on, "again" when its job is to run again, "over" when not,
    "killed" when it was told to stop."""

    process: Process
    attempt: int
    started: int
    end: str = ""


class Runs:
    """All runs of all jobs. `by_hand` says when people last touched a job, `fell_back_at` when
    the store last went back in time. Why jobs ran again is counted in `again`."""

    def __init__(self) -> None:
        self.last: dict[str, Run] = {}
        self.by_hand: dict[str, int] = {}
        self.fell_back_at = -1
        self.count = 0
        self.again: Counter[str] = Counter()

    def start(self, job: Job, process: Process, node: SimNode) -> Run:
        now = node.world.now
        require(process.alive, "a dead process started a run", job.id)
        before = self.last.get(job.id)
        if before is not None:
            why = self._why_again(job.id, before)
            require(why != "", "a job ran again and no fault explains it", job.id, before)
            self.again[why] += 1
        run = self.last[job.id] = Run(process, job.attempt, now)
        self.count += 1
        node.world.note(f"{node.name} runs {job.id} {job.attempt}")
        return run

    def _why_again(self, id_: str, before: Run) -> str:
        if before.end == "again":
            return "its status"
        if not before.process.alive:
            return "its node died"
        if before.process.hit_at >= before.started:
            return "its node was hit"
        if self.fell_back_at >= before.started:
            return "the store fell back"
        return "by hand" if self.by_hand.get(id_, -1) >= before.started else ""
