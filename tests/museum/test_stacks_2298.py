"""stacksjs/stacks#2298: without jitter all jobs that failed together come back together, and what
had just come up again went down again.

slimq: a backoff has full jitter, and what a target asks for by `Retry-After` is a lower bound: each
job waits longer by its own chance. So a herd comes back as a trickle, and nobody early.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from engine_kit import TYPE, MakeRig, Rig, handler

from clock_kit import FakeClock
from proof_kit import Proof
from slimq.core.job import Result
from slimq.store.sqlite import SqliteStore

JOBS = 10_000
DOWN_S = 300
TICK_MS = 500  # how long a call takes
SLOTS = 400  # fast enough to break anything
PEAK_MAX = 0.03  # of the jobs, in one second


class SeededChance:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def uniform(self) -> float:
        return self._random.random()

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)


class Target:
    """Is down for five minutes. It answers 503 with the date when it is back, or not at all."""

    def __init__(self, rig: Rig, *, says_when: bool) -> None:
        self._rig = rig
        self._says_when = says_when
        self.back_at = rig.clock.wall_ms() + DOWN_S * 1000
        self.calls: Counter[int] = Counter()  # per second since it is back
        self.early = 0
        self._told: set[str] = set()

    def call(self, id_: str) -> Result:
        since = self._rig.clock.wall_ms() - self.back_at
        if since >= 0:
            self.calls[since // 1000] += 1
            return Result(200)
        self.early += id_ in self._told
        if not self._says_when:
            return Result(503, error="connection refused")
        self._told.add(id_)
        return Result(102, retry_after_ms=-since)


@pytest.mark.proof("T14")
@pytest.mark.parametrize("says_when", [False, True], ids=["refuses", "says when"])
def test_a_herd_comes_back_as_a_trickle_and_nobody_before_the_time_he_was_told(
    make_rig: MakeRig, tmp_path: Path, proof: Proof, says_when: bool
) -> None:
    peaks = []
    for turn in range(proof.size(submission=1, release=5)):
        clock = FakeClock()
        path = tmp_path / f"store{turn}.db"
        with closing(SqliteStore(path, clock=clock, durable=False, boot="boot1")) as store:
            chance = SeededChance(proof.seed + turn)
            rig = make_rig(f"journal{turn}", clock=clock, store=store, slots=SLOTS, chance=chance)
            target = Target(rig, says_when=says_when)
            run_all(rig, target)
        assert target.early == 0
        peaks.append(max(target.calls.values()) / JOBS)
    assert max(peaks) <= PEAK_MAX
    proof.report(jobs=JOBS * len(peaks), peak_of_a_second=max(peaks), early=0)


def run_all(rig: Rig, target: Target) -> None:
    rig.memory.put_handler(handler(batch_size=1))
    rig.add(*(b"%d" % number for number in range(JOBS)), type=TYPE)
    while sum(target.calls.values()) < JOBS:
        while rig.step():
            pass
        rig.clock.advance(TICK_MS)
        for flight in list(rig.air):
            rig.land(flight, *(target.call(job.id) for job in flight.batch.jobs))
    rig.step()
    assert rig.counts() == (0, 0, JOBS, 0, 0)
