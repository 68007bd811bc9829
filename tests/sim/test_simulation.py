"""T3: whole nodes on virtual time, on disks and stores that fail, keep every promise. What
must hold is said in `invariants.py`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from proof_kit import Proof
from sim.story import Story

RUN = Path(__file__).with_name("run.py")


def play(seed: int, hours: float) -> Story:
    story = Story(seed, hours)
    try:
        story.run()
    except Exception as error:
        error.add_note("\n".join([*story.world.last, f"again: {story.command}"]))
        raise
    return story


@pytest.mark.proof("T3")
@pytest.mark.timeout(900)
def test_nodes_keep_every_promise_whatever_happens(proof: Proof) -> None:
    chance = random.Random(proof.seed)
    seeds = proof.size(submission=24, release=160)
    hours = proof.size(submission=1, release=4) / 2
    total: Counter[str] = Counter()
    for _ in range(seeds):
        figures = play(chance.randrange(1 << 31), hours).figures()
        total.update({name: figures[name] for name in ("hours", "faults", "jobs", "runs")})
    proof.report(seeds=seeds, hours=round(total["hours"], 1), faults=total["faults"])
    proof.report(jobs=total["jobs"], runs=total["runs"], violations=0)


@pytest.mark.parametrize("seed", [4, 7])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """On SQLite and in memory, also where texts hash to other numbers."""
    traces = set()
    for hashes in ("1", "2"):
        command = [sys.executable, str(RUN), "--seed", str(seed), "--hours", "0.2"]
        environment = os.environ | {"PYTHONHASHSEED": hashes}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        traces.add(done.stdout.splitlines()[-1])
    assert len(traces) == 1
