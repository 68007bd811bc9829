"""The suite can fail: every bug that is planted is caught by the test that is named for it.

That the same tests pass without the bugs is what the rest of the run shows.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from mutant import Copy, Ran
from planted import PLANTED, Planted

from proof_kit import Proof

AT_A_TIME = 2

pytestmark = [pytest.mark.proof("planted bugs"), pytest.mark.timeout(600)]
Runs = dict[str, Future[Ran]]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    """The runs of all bugs that are wanted, some at a time, in the order of the tests."""
    chosen = {item.name for item in request.session.items}
    is_all = "test_all_planted_bugs_are_caught" in chosen
    wanted = [
        bug for bug in PLANTED if is_all or f"test_a_planted_bug_is_caught[{bug.name}]" in chosen
    ]
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for _ in range(AT_A_TIME):
        copies.put(Copy(tmp_path_factory.mktemp("copy")))

    def run(bug: Planted) -> Ran:
        copy = copies.get()
        try:
            return copy.run(bug)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {bug.name: pool.submit(run, bug) for bug in wanted}
        pool.shutdown(cancel_futures=True)


def test_there_are_bugs_enough_and_each_has_its_own_name() -> None:
    names = {bug.name for bug in PLANTED}
    assert len(names) == len(PLANTED) >= 20


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Planted, runs: Runs) -> None:
    ran = runs[bug.name].result()
    if ran.skipped:
        pytest.skip(ran.skipped)
    assert ran.found, f"{bug.test} does not catch it. {bug.breaks}\n{ran.trouble}"


def test_all_planted_bugs_are_caught(proof: Proof, runs: Runs) -> None:
    rans = {name: run.result() for name, run in runs.items()}
    proof.report(planted=len(rans), caught=sum(ran.found for ran in rans.values()))
    assert {name: ran.trouble for name, ran in rans.items() if not (ran.found or ran.skipped)} == {}


BACKOFF = next(bug for bug in PLANTED if bug.name == "no_jitter")


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (BACKOFF._replace(new="return int(chance * ceiling)"), "No assertion failed"),
        (BACKOFF._replace(new="return int("), "cannot be tried"),
        (BACKOFF._replace(new="return no_such_name"), "No assertion failed"),
        (BACKOFF._replace(old="no such text"), "has this text 0 times"),
        (BACKOFF._replace(old="min"), "if the code has moved, plant"),
    ],
    ids=["harmless", "no Python", "no such name", "moved away", "twice there"],
)
def test_what_is_no_bug_or_is_not_found_is_not_called_found(
    bug: Planted, said: str, tmp_path: Path
) -> None:
    ran = Copy(tmp_path).run(bug)
    assert not ran.found
    assert said in ran.trouble
