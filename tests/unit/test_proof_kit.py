"""The kit of the proofs: a proof that fails is never told as one that passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import proof_kit

TESTS = Path(proof_kit.__file__).parent
HOOKS = "from proof_kit import proof, pytest_collection_modifyitems, pytest_runtest_makereport\n"
PROOF = """
import pytest

@pytest.fixture
def rig(proof):
    yield
    assert {rig}, "the rig found something at its end"

@pytest.mark.proof("T0")
@pytest.mark.timeout(60)
def test_it(proof, rig, request):
    proof.report(kills=proof.size(submission=2, release=500), lost=0)
    {body}
"""


class Run:
    """pytest in a folder of its own, over one proof with this body."""

    def __init__(self, folder: Path, body: str, rig: str = "True", **variables: str) -> None:
        (folder / "conftest.py").write_text(HOOKS)
        (folder / "test_proof.py").write_text(PROOF.format(body=body, rig=rig))
        results = folder / "results.jsonl"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SLIMQ_")
        } | {"PYTHONPATH": str(TESTS), "SLIMQ_PROOF_RESULTS": str(results), **variables}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # some take a second to import
        plugins = ("-p", "pytest_timeout", "-p", "no:cacheprovider")
        command = (sys.executable, "-m", "pytest", *plugins, str(folder))
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        self.code, self.output = done.returncode, done.stdout
        text = results.read_text() if results.exists() else ""
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]


def test_in_a_release_run_a_proof_may_take_longer_than_its_own_timeout_allows(
    tmp_path: Path,
) -> None:
    body = 'assert request.node.get_closest_marker("timeout").args == ({},)'
    for name, seconds in (("release", proof_kit.SECONDS_MAX), ("", 60)):
        folder = tmp_path / f"run{seconds}"
        folder.mkdir()
        run = Run(folder, body.format(seconds), SLIMQ_PROVE=name)
        assert run.code == 0, run.output


def test_a_proof_that_passes_is_a_line_with_its_seed_and_its_figures(tmp_path: Path) -> None:
    run = Run(tmp_path, "pass", SLIMQ_SEED="7")
    assert run.code == 0, run.output
    (line,) = run.lines
    assert line.pop("seconds") >= 0
    assert line == {
        "proof": "T0",
        "test": "test_proof.py::test_it",
        "seed": 7,
        "passed": True,
        "figures": {"kills": 2, "lost": 0},
    }


@pytest.mark.parametrize(("body", "rig"), [("assert 1 == 2", "True"), ("pass", "False")])
def test_a_proof_that_fails_is_a_line_that_says_so_and_shows_its_seed(
    tmp_path: Path, body: str, rig: str
) -> None:
    run = Run(tmp_path, body, rig, SLIMQ_SEED="4711")
    assert run.code == 1
    assert [line["passed"] for line in run.lines] == [False]
    assert "SLIMQ_SEED=4711" in run.output


def test_a_proof_that_is_skipped_has_no_line(tmp_path: Path) -> None:
    run = Run(tmp_path, 'pytest.skip("no rig here")')
    assert run.code == 0
    assert run.lines == []


def test_a_release_run_is_larger(tmp_path: Path) -> None:
    run = Run(tmp_path, "pass", SLIMQ_PROVE="release")
    assert run.lines[0]["figures"]["kills"] == 500
