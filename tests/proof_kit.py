"""How large a proof is in a run, with which seed, and where its result goes.

A proof is a test marked `@pytest.mark.proof("T1")` that asks the fixture `proof` for its
sizes: small in every `make test`, large in `make prove-release`. Its result is one line of
JSON in the file named by SLIMQ_PROOF_RESULTS; without the variable it is only asserted.

The fixture and the hooks stand here, and tests/conftest.py hands them to pytest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SECONDS_MAX = 3600  # of one proof in a release run: longer ones are cut into chunks
_PROOF = pytest.StashKey["Proof"]()


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
        self._since = time.monotonic()
        self._outcomes: set[str] = set()

    def size(self, *, submission: int, release: int) -> int:
        """Return how much to do: in every submission, or in one chunk of a release run."""
        return release if is_release() else submission

    def report(self, **figures: int | float | str) -> None:
        """Add figures to the result: what was done, and what was found (`lost=0`)."""
        self.figures.update(figures)

    def went(self, report: pytest.TestReport) -> None:
        """Note how a phase of the test went: its call, its teardown. Show the seed if badly;
        write the line after the last. A skipped proof has shown nothing, and gets no line."""
        self._outcomes.add(report.outcome)
        if report.failed:
            report.sections.append((f"proof {self.name}", f"SLIMQ_SEED={self.seed}"))
        if report.when == "teardown" and "skipped" not in self._outcomes:
            self._write()

    def _write(self) -> None:
        line = {
            "proof": self.name,
            "test": self.test,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self._since, 1),
            "passed": "failed" not in self._outcomes,
            "figures": self.figures,
        }
        if results := os.environ.get("SLIMQ_PROOF_RESULTS"):
            with Path(results).open("a") as file:
                file.write(json.dumps(line) + "\n")


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    """Sizes, seed and result of this proof: `@pytest.mark.proof("T1")`."""
    mark = request.node.get_closest_marker("proof")
    made = Proof(mark.args[0], request.node.nodeid)
    request.node.stash[_PROOF] = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fixture is not told how its test went; this hook is."""
    report = yield
    if made := item.stash.get(_PROOF, None):
        made.went(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_release() and item.get_closest_marker("proof"):
            item.add_marker(pytest.mark.timeout(SECONDS_MAX), append=False)  # before its own


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many of the planted bugs were found, whatever else the run did."""
    reports = {
        outcome: [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if "test_a_planted_bug_is_caught[" in report.nodeid
        ]
        for outcome in ("passed", "failed", "skipped")
    }
    total = sum(map(len, reports.values()))
    if total:
        terminalreporter.write_line(f"planted bugs: {len(reports['passed'])}/{total} caught")
