"""Plants a bug in a copy of the code, and says how the test went that has to find it.

The code of the product has no hook for this: the test runs in a process of its own, which
finds the copy first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from planted import Planted

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60
# The module is imported first, so that a bug that is none (a typing error) is told from one.
_RUN = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
assert module.__file__.startswith(sys.argv[2]), f"{module.__file__} is not the copy"
import pytest
sys.exit(pytest.main(sys.argv[3:]))
"""
_SAID = ("AssertionError", "assert ", "Failed: ", "ExceptionGroup: ")  # by a test that fails
_seconds = count(1)


class Ran(NamedTuple):
    """How the named test went: `found` the bug by an assertion; `skipped` for a reason;
    else `trouble` says why it does not count."""

    found: bool = False
    skipped: str = ""
    trouble: str = ""


class Copy:
    """A copy of the code, for one bug at a time. What Python compiles of it is kept: to
    compile it anew costs more than the test does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._source = folder / "src"
        shutil.copytree(ROOT / "src", self._source, ignore=shutil.ignore_patterns("__pycache__"))

    def run(self, bug: Planted) -> Ran:
        """Run the test of a bug against the code that has it."""
        file = self._source / "slimq" / bug.file
        text = file.read_text("utf-8")
        if (times := text.count(bug.old)) != 1:
            return Ran(trouble=_MOVED.format(bug=bug, times=times))
        try:
            self._write(file, text.replace(bug.old, bug.new))
            return self._run_test(bug)
        finally:
            self._write(file, text)

    def _write(self, file: Path, text: str) -> None:
        """Python knows by time and size that a file is not the one it has compiled."""
        file.write_text(text, "utf-8")
        second = next(_seconds)
        os.utime(file, (second, second))

    def _run_test(self, bug: Planted) -> Ran:
        result = self._folder / "result.xml"
        result.unlink(missing_ok=True)
        module = "slimq." + bug.file.removesuffix(".py").replace("/", ".")
        pytest = ("-x", "-p", "no:cacheprovider", "-p", "pytest_timeout", f"--junitxml={result}")
        try:
            done = subprocess.run(
                (sys.executable, "-c", _RUN, module, str(self._source), *pytest, bug.test),
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            return Ran(trouble=f"The test did not end within {SECONDS_MAX} s.")
        if not result.exists():
            return Ran(trouble=f"The code with the bug cannot be tried:\n{done.stdout[-2000:]}")
        return _judge(result, done.stdout)

    def _environment(self) -> dict[str, str]:
        inherited = os.environ.copy()
        for name in ("PYTHONDONTWRITEBYTECODE", "SLIMQ_PROOF_RESULTS", "SLIMQ_PROVE"):
            inherited.pop(name, None)  # the small size of a proof catches its bug
        return inherited | {
            "PYTHONPATH": str(self._source),
            "PYTHONPYCACHEPREFIX": str(self._folder / "compiled"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "SLIMQ_SEED": "1",
        }


_MOVED = (
    "src/slimq/{bug.file} has this text {times} times, not once; if the code has moved, plant the "
    "bug anew in tests/mutants/planted.py:\n{bug.old}"
)


def _judge(result: Path, output: str) -> Ran:
    """Only an assertion of the test itself counts: not a fixture, not a name that is missing."""
    cases = ElementTree.parse(result).getroot().iter("testcase")
    events = [event for case in cases for event in case]
    said = [event.get("message", "") for event in events if event.tag == "failure"]
    if any(message.startswith(_SAID) for message in said):
        return Ran(found=True)
    for event in events:
        if event.tag == "skipped":
            return Ran(skipped=event.get("message", ""))
    return Ran(trouble=f"No assertion failed:\n{output[-3000:]}")
