"""A coverage-guided fuzzer against every parser that reads what others write."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from postgres_kit import outcome_without
from proof_kit import Proof

FUZZER = Path(__file__).with_name("fuzz_parsers.py")
PARSERS = re.findall(r"^def (\w+)\(data: bytes\) -> None", FUZZER.read_text("utf-8"), re.M)
RAN = re.compile(r"number_of_executed_units: (\d+)")


@pytest.mark.proof("T5")
@pytest.mark.parametrize("parser", PARSERS)
def test_whatever_a_parser_reads_it_returns_something_legal_or_refuses(
    parser: str, tmp_path: Path, proof: Proof
) -> None:
    if importlib.util.find_spec("atheris") is None:
        raise outcome_without("no atheris: there is none for this machine's Python", os.environ)
    runs = proof.size(submission=10_000, release=2_500_000)
    words = [f"-runs={runs}", f"-seed={proof.seed}", "-print_final_stats=1"]
    done = subprocess.run(
        [sys.executable, str(FUZZER), parser, *words],
        cwd=tmp_path,  # for what it found
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    executed = RAN.search(done.stderr)
    assert executed is not None
    assert int(executed[1]) >= runs
    proof.report(executions=int(executed[1]), errors=0)
