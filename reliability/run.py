"""The release run: every proof in its release size, with new seeds, until the plan is reached.

    python reliability/run.py            all proofs
    python reliability/run.py T1 T3      these

It runs chunks of at most an hour; after each it adds a line to results.jsonl, and writes
RELIABILITY.md anew. Stop it at any
time and start it again: what is there of this commit counts. The commit is the last one that
changed the code or its tests; what is not committed is not proved. Where a rig cannot be built,
its proof fails. The exit code is 0 when everything is reached.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pytest

import page
from plan import PLAN
from progress import Chunk, Progress
from results import ROOT, Line, append, of_commit, read

OF_BENCHMARKS = ":!tests/unit/test_bench_peers.py"  # it proves nothing of the code
PROVED = ("src", "tests", "pyproject.toml", "requirements.lock", OF_BENCHMARKS)


class Collector:
    """A plugin of pytest that only looks which proofs there are: they ask for their size."""

    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("proof")
            if mark is not None and "proof" in getattr(item, "fixturenames", ()):
                self.tests[mark.args[0]].append(item.nodeid)


def main() -> int:
    commit = _commit()
    tests = _tests(sys.argv[1:])
    if missing := [proof for proof in sys.argv[1:] or PLAN if proof not in tests]:
        _say(f"there is no test of: {', '.join(missing)}")
    progress = Progress(tests, of_commit(read(), commit))
    while (chunk := progress.next()) is not None:
        _say(f"{chunk.proof} {chunk.test.rpartition('::')[2]} ...")
        line = append(_run(chunk), commit)
        progress.lines.append(line)
        page.write()
        end = "passed" if line["passed"] else "FAILED"
        _say(f"{chunk.proof} {end} in {line['seconds']:.0f} s. {progress.shown(chunk.proof)}")
    failed = [proof for proof in tests if not progress.is_reached(proof)]
    _say(f"{len(tests) - len(failed)} of {len(tests)} proofs are reached at {commit[:12]}")
    if failed:
        _say(f"failed, or not reached: {', '.join(failed)}")
    return 1 if failed or missing else 0


def _run(chunk: Chunk) -> Line:
    """Run a chunk with a new seed; return what it said of itself."""
    seed = random.SystemRandom().randrange(2**31)
    with tempfile.TemporaryDirectory(prefix="slimq-proof-") as folder:
        said = Path(folder, "results.jsonl")
        environment = os.environ | {
            "SLIMQ_PROVE": "release",
            "SLIMQ_SEED": str(seed),
            "SLIMQ_PROOF_RESULTS": str(said),
            "CI": "true",  # a rig that is not there is no reason to skip a proof
        }
        since = time.monotonic()
        command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", chunk.test)
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            code = process.wait()
        finally:
            process.kill()
        lines = said.read_text().splitlines() if said.exists() else []
    silent = {
        "proof": chunk.proof,
        "test": chunk.test,
        "seed": seed,
        "seconds": round(time.monotonic() - since, 1),
        "passed": code == 0,
        "figures": {},
    }
    line: Line = json.loads(lines[-1]) if lines else silent
    return {**line, "passed": line["passed"] and code == 0}


def _tests(names: list[str]) -> dict[str, list[str]]:
    """Return the tests of the proofs that are asked for, or of all, in the order of the plan."""
    collector = Collector()
    code = pytest.main(["--collect-only", "-qqq", "-m", "proof", str(ROOT)], [collector])
    if code != 0:
        sys.exit("the tests cannot be collected")
    order = [*PLAN, *sorted(collector.tests.keys() - PLAN)]
    found = {proof: collector.tests[proof] for proof in order if proof in collector.tests}
    return {proof: tests for proof, tests in found.items() if not names or proof in names}


def _commit() -> str:
    if _git("status", "--porcelain", "--", *PROVED):
        sys.exit("commit first: the figures are those of a commit")
    return _git("log", "-1", "--format=%H", "--", *PROVED)


def _git(*words: str) -> str:
    ran = subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def _say(text: str) -> None:
    print(f"prove: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
