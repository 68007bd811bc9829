"""How large a proof is in a run, with which seed, and where its result goes.

A proof is a test marked `@pytest.mark.proof("T1")` that asks the fixture `proof` for its
sizes: small in every `make test`, large in `make prove-release`. Its result is one line of
JSON in the file named by SLIMQ_PROOF_RESULTS; without the variable it is only asserted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_MAX = 3600  # of one proof in a release run: longer ones are cut into chunks


def is_release() -> bool:
    return os.environ.get("SLIMQ_PROVE") == "release"


class Proof:
    """One run of a proof. `seed` is the source of all its chance: it is shown when the proof
    fails, and SLIMQ_SEED brings it back."""

    def __init__(self, name: str, test: str) -> None:
        self.name = name
        self.test = test
        self.seed = int(os.environ.get("SLIMQ_SEED", time.time_ns() % 2**31))
        self.figures: dict[str, Any] = {}

    def size(self, *, submission: int, release: int) -> int:
        """Return how much to do: in every submission, or in one chunk of a release run."""
        return release if is_release() else submission

    def report(self, **figures: int | float | str) -> None:
        """Add figures to the result: what was done, and what was found (`lost=0`)."""
        self.figures.update(figures)


@contextmanager
def recorded(name: str, test: str) -> Iterator[Proof]:
    """Run a proof; write its line when it is over, passed or not."""
    proof, since, passed = Proof(name, test), time.monotonic(), False
    print(f"proof {name}: SLIMQ_SEED={proof.seed}")
    try:
        yield proof
        passed = True
    finally:
        line = {
            "proof": name,
            "test": test,
            "seed": proof.seed,
            "seconds": round(time.monotonic() - since, 1),
            "passed": passed,
            **proof.figures,
        }
        if results := os.environ.get("SLIMQ_PROOF_RESULTS"):
            with Path(results).open("a") as file:
                file.write(json.dumps(line) + "\n")
