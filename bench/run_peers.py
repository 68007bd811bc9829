"""slimq beside other queues: each does the same on this machine, in turns, in one run.

    python bench/run_peers.py                       all; writes docs/benchmarks-peers.md
    python bench/run_peers.py --peers "beanstalkd huey" --workloads "W1 W3"
    python bench/run_peers.py --from FILE           the report of what was measured before

A line of JSON for each run goes to standard output, and with the machine and what was left out to
.bench/peers/lines.jsonl; what happens meanwhile goes to standard error. What cannot be had here is
left out, and the reason told.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from bench import tell
from machine import ROOT, bench_folder, facts
from peers.brokers import Brokers
from peers.installing import CACHE, Absent
from peers.machine_limits import LIMITS
from peers.page import page, plots
from peers.session import Session
from peers.summary import summarize
from peers.systems import KEYS, SYSTEMS, System
from peers.workloads import EACH_ROUND, ONCE, LeftOut, Measure

PAGE = ROOT / "docs" / "benchmarks-peers.md"
MINUTES = 75.0
WORKLOADS = tuple(EACH_ROUND | ONCE)


class Comparison:
    """One run of it. What is kept goes to `written`, line by line."""

    def __init__(self, folder: Path, written: TextIO, scale: float) -> None:
        self._folder, self._written, self._scale = folder, written, scale
        self._numbers = count()
        self._hopeless: set[str] = set()  # what need not be tried again
        machine = facts(folder)
        self._commit = machine["commit"]
        self._write({"machine": machine})
        self.brokers = Brokers(folder)

    def round(self, workloads: dict[str, Measure], systems: list[System], number: int) -> None:
        """Let all systems do one workload after the other, so that what disturbs the machine
        disturbs all."""
        for name, measure in workloads.items():
            if name in LIMITS:
                for fields in LIMITS[name](self._new_folder(), self._scale):
                    self._keep({"workload": name, "round": number} | fields)
            for system in systems:
                if name in system.workloads:
                    self._measure(system, name, measure, number)

    def _measure(self, system: System, name: str, measure: Measure, number: int) -> None:
        what = f"{name}: {system.name} ({system.batch(name)})"
        if {what, system.name} & self._hopeless:
            return
        start = time.monotonic()
        try:
            for fields in self._run(system, name, measure):
                self._keep({"system": system.name, "workload": name, "round": number} | fields)
        except Absent as reason:
            self._leave_out(system.name, reason)
        except LeftOut as reason:
            self._leave_out(what, reason)
        except Exception as reason:  # the others are measured all the same
            self._write({"left_out": what, "why": f"round {number}: {reason or repr(reason)}"})
        tell(f"{what}: {time.monotonic() - start:.1f} s")

    def _run(self, system: System, name: str, measure: Measure) -> Iterator[dict[str, Any]]:
        folder = self._new_folder()
        try:
            with Session(system, self.brokers, folder) as session:
                said = {"durability": system.durability, "batch": system.batch(name)}
                for fields in measure(session, self._scale):
                    yield said | fields | {"version": session.version}
        finally:
            shutil.rmtree(folder)  # a million jobs are a gigabyte

    def _keep(self, line: dict[str, Any]) -> None:
        print(self._write(line | {"commit": self._commit}), flush=True)

    def _leave_out(self, what: str, reason: Exception) -> None:
        self._hopeless.add(what)
        self._write({"left_out": what, "why": str(reason)})

    def _write(self, line: dict[str, Any]) -> str:
        if "left_out" in line:
            tell(f"without {line['left_out']}: {line['why']}")
        encoded = json.dumps(line, ensure_ascii=False)
        self._written.write(encoded + "\n")
        self._written.flush()
        return encoded

    def _new_folder(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder


def main() -> int:
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    if asked.given:
        return _report(asked.given, asked.page or PAGE)
    asked.lines.parent.mkdir(parents=True, exist_ok=True)
    with bench_folder() as folder, asked.lines.open("w") as written:
        comparison = Comparison(folder, written, asked.scale)
        try:
            _all_rounds(comparison, asked)
        finally:
            comparison.brokers.close()
    whole = asked.peers == list(KEYS) and asked.workloads == list(WORKLOADS) and asked.scale == 1
    path = asked.page or (PAGE if whole else None)
    return _report(asked.lines, path) if path else 0


def _all_rounds(comparison: Comparison, asked: argparse.Namespace) -> None:
    """Measure; no round begins that would end too late."""
    systems = [system for system in SYSTEMS if system.key in asked.peers]
    each = {name: measure for name, measure in EACH_ROUND.items() if name in asked.workloads}
    once = {name: measure for name, measure in ONCE.items() if name in asked.workloads}
    end, longest = time.monotonic() + 60 * asked.minutes, 0.0
    comparison.round(once, systems, 1)
    for number in range(1, (asked.rounds if each else 0) + 1):
        start = time.monotonic()
        if start + longest > end:
            tell(f"{number - 1} rounds of {asked.rounds}: the time is over")
            break
        comparison.round(each, systems, number)
        longest = max(longest, time.monotonic() - start)


def _report(path: Path, to: Path) -> int:
    """Write the report of the lines in a file; say when there are none."""
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    rows = summarize([line for line in kept if "workload" in line])
    if not rows:
        tell("nothing was measured")
        return 1
    machine = next(line["machine"] for line in kept if "machine" in line)
    left_out = {line["left_out"]: line["why"] for line in kept if "left_out" in line}
    about = {name: inspect.getdoc(each) or "" for name, each in (EACH_ROUND | ONCE).items()}
    folder = to.parent / "plots"
    folder.mkdir(exist_ok=True)
    for name, picture in plots(rows).items():
        (folder / name).write_text(picture)
    to.write_text(page(rows, machine, about, left_out, folder.name))
    tell(f"wrote {to.name}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure slimq and other queues.")
    parser.add_argument("--peers", type=str.split, default="", help=" ".join(KEYS))
    parser.add_argument("--workloads", type=str.split, default="", help=" ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5, help="of W1 to W4; the others run once")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no round ends later")
    parser.add_argument("--page", type=Path, help="where the report goes")
    parser.add_argument("--lines", type=Path, default=CACHE / "lines.jsonl", help="and the lines")
    parser.add_argument("--from", dest="given", type=Path, help="report these lines")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="below 1: a short run, whose figures say nothing"
    )
    asked = parser.parse_args()
    asked.peers, asked.workloads = asked.peers or list(KEYS), asked.workloads or list(WORKLOADS)
    for given, known in ((asked.peers, KEYS), (asked.workloads, WORKLOADS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {' '.join(sorted(unknown))}; known: {' '.join(known)}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
