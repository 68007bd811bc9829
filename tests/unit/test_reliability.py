"""The release run: chunks until the plan is reached, whatever interrupts it, and its page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import page
from plan import PLAN
from progress import Progress

ROOT = Path(page.ROOT)
CONFTEST = """
from proof_kit import proof, pytest_collection_modifyitems, pytest_runtest_makereport
"""
TESTS = """
import os
import time
from pathlib import Path
import pytest

@pytest.mark.proof("T1")
def test_kills(proof):
    if Path("hang").exists():
        Path("hangs").touch()
        time.sleep(60)
    assert not Path("broken").exists()
    proof.report(kills=proof.size(submission=1, release=1500), acked=600_000, lost=0)

@pytest.mark.proof("P0")
def test_a_peer_failed(proof):
    assert os.environ["CI"]
"""
MACHINE = {"cores": 2, "memory_gb": 8, "kernel": "Linux 6", "filesystem": "ext4", "python": "3.11"}


def line(proof: str = "T1", test: str = "t.py::test_kills", **fields: Any) -> dict[str, Any]:
    made = {"proof": proof, "test": test, "seed": 1, "seconds": 60.0, "passed": True}
    about = {"figures": {}, "commit": "c" * 40, "at": "2026-11-24 12:00", "machine": MACHINE}
    return made | about | fields


def kills(count: int, acked: int, **fields: Any) -> dict[str, Any]:
    return line(figures={"kills": count, "acked": acked, "lost": 0}, **fields)


# What is next.


def test_every_test_runs_once_and_those_with_goals_until_they_are_reached() -> None:
    progress = Progress({"T1": ["kills", "other"], "P0": ["peer"]}, [])
    ran = []
    while (chunk := progress.next()) is not None:
        ran.append(chunk.test)
        figures = {"kills": 700, "acked": 500_000} if chunk.test == "kills" else {}
        progress.lines.append(line(chunk.proof, chunk.test, figures=figures))
    assert sorted(ran) == ["kills", "kills", "kills", "other", "peer"]
    assert progress.is_reached("T1")
    assert progress.shown("T1") == "kills 2,100 of 2,000, acked 1,500,000 of 1,000,000"


def test_a_test_that_failed_is_not_run_again_and_adds_nothing() -> None:
    progress = Progress({"T1": ["kills"]}, [kills(5000, 2_000_000, test="kills", passed=False)])
    assert progress.next() is None
    assert not progress.is_reached("T1")
    assert progress.shown("T1") == "kills 0 of 2,000, acked 0 of 1,000,000"


def test_a_proof_that_brings_its_goal_no_nearer_is_not_run_for_ever() -> None:
    progress = Progress({"T1": ["kills"]}, [kills(2000, 0, test="kills")])
    assert progress.next() is None
    assert not progress.is_reached("T1")


# The page.


def test_the_page_tells_figures_goals_seeds_machine_and_result() -> None:
    lines = [kills(1500, 600_000, seed=11), kills(900, 500_000, seed=12, seconds=30.0)]
    text = page.page([kills(1, 1, commit="older"), *lines], "the stories")
    assert "Commit `cccccccccccc`, 2026-11-24 to 2026-11-24, 2 runs, 90 s in all." in text
    assert "| 2 | 8 GB | Linux 6 | ext4 | 3.11 |" in text
    figures = "2,400 kills (goal 2,000), 1,100,000 acked (goal 1,000,000), 0 lost"
    assert f"| T1 | {PLAN['T1'].shows} | {figures} | 2 | 90 s | passed |" in text
    assert "| T1 | `t.py::test_kills` | 2 | 90 s | 11 12 |" in text
    assert text.endswith("the stories")


def test_the_page_tells_what_failed_is_not_reached_or_was_not_run() -> None:
    def result(*lines: dict[str, Any]) -> str:
        rows = [row for row in page.page(lines, "").splitlines() if row.startswith("| T1 |")]
        return rows[0].split(" | ")[-1]

    assert result(kills(9, 9, passed=False, seed=7)) == "**failed** with seed 7 |"
    assert result(kills(9, 9)) == "not reached yet |"
    assert result(line("P0", "t.py::test_it")) == "not run |"


# The run.


class Checkout:
    """A repository in small, with the real runner, and two proofs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignore = shutil.ignore_patterns("results.jsonl", "__pycache__")
        shutil.copytree(ROOT / "reliability", folder / "reliability", ignore=ignore)
        (folder / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "proof_kit.py", folder / "tests")
        (folder / "tests" / "conftest.py").write_text(CONFTEST)
        (folder / "tests" / "test_it.py").write_text(TESTS)
        (folder / "pyproject.toml").write_text(
            '[tool.pytest.ini_options]\nmarkers = ["proof(name)", "timeout(s)"]\n'
        )
        (folder / ".gitignore").write_text("__pycache__/\nhang*\nbroken\n")
        self.git("init", "-q")
        self.commit()

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        ran = subprocess.run(
            ("git", *who, *words), cwd=self.folder, check=True, capture_output=True, text=True
        )
        return ran.stdout.strip()

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "state")

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLIMQ_")}
        return subprocess.Popen(
            (sys.executable, "reliability/run.py", *words),
            cwd=self.folder,
            env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "reliability" / "results.jsonl"
        return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def wait_for(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_goes_on_until_the_figures_of_its_commit_are_reached(checkout: Checkout) -> None:
    code, said = checkout.run("T1", "P0")
    assert code == 0, said
    assert "2 of 2 proofs are reached" in said
    lines = checkout.lines()
    assert [each["proof"] for each in lines].count("T1") == 2
    assert len({each["seed"] for each in lines}) == 3
    assert {each["commit"] for each in lines} == {checkout.git("rev-parse", "HEAD")}
    assert "3,000 kills (goal 2,000)" in (checkout.folder / "RELIABILITY.md").read_text()
    checkout.commit()  # the results: they are no other state of what was proved
    assert checkout.run("T1", "P0")[0] == 0
    assert len(checkout.lines()) == 3


def test_a_run_that_is_interrupted_goes_on_with_what_it_has(checkout: Checkout) -> None:
    (checkout.folder / "hang").touch()
    process = checkout.start("T1", "P0")
    assert process.stderr is not None
    wait_for((checkout.folder / "hangs").exists)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert all(each["passed"] for each in checkout.lines())
    (checkout.folder / "hang").unlink()
    assert checkout.run("T1", "P0")[0] == 0
    assert sorted(each["proof"] for each in checkout.lines()) == ["P0", "T1", "T1"]


def test_a_proof_that_fails_is_a_line_that_says_so_and_code_1(checkout: Checkout) -> None:
    (checkout.folder / "broken").touch()
    code, said = checkout.run("T1")
    assert code == 1
    assert "failed, or not reached: T1" in said
    assert [each["passed"] for each in checkout.lines()] == [False]


def test_what_is_not_committed_is_not_proved(checkout: Checkout) -> None:
    (checkout.folder / "tests" / "test_it.py").write_text(TESTS + "\n")
    code, said = checkout.run("T1")
    assert code == 1
    assert "commit first" in said
    assert checkout.lines() == []
