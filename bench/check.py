"""Whether this commit is as fast as the one of bench/baseline.json, as shares of physical limits.

    python bench/check.py            exit code 1 when a workload lost more than 15 % of its share
    python bench/check.py --write    write bench/baseline.json

Rates depend on the machine; the share of a limit that is measured in turns with it travels, though
not to a machine of another kind: the baseline says which one it is of. A loss counts when twice as
many rounds show it. It is no part of the tests, as it takes some minutes and wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import Bench, tell
from machine import bench_folder, facts
from run import measure
from shares import Incomparable, kept, lost, medians
from workloads import WORKLOADS

BASELINE = Path(__file__).parent / "baseline.json"
ROUNDS = 3
CHECKED = (
    "accept_bulk",
    "accept_32",
    "exec_batch",
    "function_batch",
    "http_single",
    "http_batch100",
    "start_latency",
)


def main() -> int:
    asked = _arguments()
    if not asked.write and not asked.baseline.exists():
        tell(f"there is no {asked.baseline.name}: make bench-check BASELINE=write")
        return 2
    with bench_folder() as folder:
        about_machine = facts(folder)
        bench = Bench(folder, asked.scale)
        if asked.write:
            _write(asked.baseline, about_machine, _rounds(bench, asked.workload, asked.rounds))
            return 0
        baseline = json.loads(asked.baseline.read_text())
        return _compare(baseline, bench, asked.workload, asked.rounds)


def _compare(baseline: dict[str, Any], bench: Bench, names: Sequence[str], rounds: int) -> int:
    lines = _rounds(bench, names, rounds)
    try:
        slower = lost(kept(baseline["shares"], medians(lines)))
        if slower:
            tell(f"slower, measured again: {', '.join(slower)}")
            lines += _rounds(bench, slower, rounds)
        parts = kept(baseline["shares"], medians(lines))
    except Incomparable as error:
        tell(str(error))
        return 2
    for name, part in parts.items():
        tell(f"{name}: {part:.0%} of its share at {baseline['machine']['commit']}")
    slower = lost(parts)
    tell(f"lost more than 15 %: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


def _rounds(bench: Bench, names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Measure the workloads in turns. Raises RuntimeError when one cannot be measured."""
    lines = []
    for _ in range(rounds):
        results, _left_out = measure({name: WORKLOADS[name] for name in names}, bench)
        if len(results) != len(names):
            raise RuntimeError("not all workloads could be measured")
        lines += results
    return lines


def _write(path: Path, machine: dict[str, str], lines: list[dict[str, Any]]) -> None:
    found = {
        workload: {limit: float(f"{share:.4g}") for limit, share in by_limit.items()}
        for workload, by_limit in medians(lines).items()
    }
    document = {"machine": machine, "shares": found}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    tell(f"wrote {path.name}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the speed of this commit.")
    parser.add_argument("workload", nargs="*", help=", ".join(CHECKED))
    parser.add_argument("--write", action="store_true", help="write the baseline")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="where it is")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="below 1: a short run, whose figures say nothing"
    )
    asked = parser.parse_args()
    if unknown := set(asked.workload) - set(CHECKED):
        parser.error(f"not checked: {', '.join(sorted(unknown))}")
    asked.workload = asked.workload or CHECKED
    return asked


if __name__ == "__main__":
    sys.exit(main())
