"""Which test of which proof is to run next, and how far all of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from plan import ONCE, PLAN, Goal
from results import Line, sums


class Chunk(NamedTuple):
    """One run of one test: the most that can be lost by an interruption."""

    proof: str
    test: str


class Progress:
    """`tests` are the ids of the tests of each proof; `lines` the results of this commit."""

    def __init__(self, tests: Mapping[str, Sequence[str]], lines: Sequence[Line]) -> None:
        self._tests = tests
        self.lines = list(lines)

    def next(self) -> Chunk | None:
        """Return the chunk to run: of all that are due, one that ran least often."""
        due = [Chunk(proof, test) for proof in self._tests for test in self._due(proof)]
        return min(due, key=lambda chunk: len(self._of_test(chunk.test)), default=None)

    def is_reached(self, proof: str) -> bool:
        fresh = any(not self._of_test(test) for test in self._tests[proof])
        return not (fresh or self.failed(proof) or self._missing(proof))

    def failed(self, proof: str) -> list[Line]:
        return [line for line in self._of(proof) if not line["passed"]]

    def shown(self, proof: str) -> str:
        """Return how far the figures of a proof are: "kills 800 of 2,000"."""
        goals = goal_of(proof).figures
        parts = []
        for name, reached in sums(self._of(proof), goals).items():
            of = f" of {goals[name]:,}" if goals[name] else ""
            parts.append(f"{name.replace('_', ' ')} {reached:,}{of}")
        return ", ".join(parts)

    def _due(self, proof: str) -> list[str]:
        """A test that failed is not run again: its commit has failed."""
        failed = {line["test"] for line in self.failed(proof)}
        tests = [test for test in self._tests[proof] if test not in failed]
        fresh = [test for test in tests if not self._of_test(test)]
        missing = self._missing(proof)
        return fresh or [test for test in tests if self._adds(test, missing)]

    def _missing(self, proof: str) -> set[str]:
        goals = goal_of(proof).figures
        reached = sums(self._of(proof), goals)
        return {name for name, goal in goals.items() if reached[name] < goal}

    def _adds(self, test: str, missing: set[str]) -> bool:
        """Whether a run of a test brings a figure nearer to its goal: its last one did."""
        last = self._of_test(test)[-1]["figures"]
        return any(last.get(name, 0) > 0 for name in missing)

    def _of(self, proof: str) -> list[Line]:
        return [line for line in self.lines if line["proof"] == proof]

    def _of_test(self, test: str) -> list[Line]:
        return [line for line in self.lines if line["test"] == test]


def goal_of(proof: str) -> Goal:
    return PLAN.get(proof, ONCE)
