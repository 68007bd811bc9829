"""The benchmark: measures what a user gets, beside what the machine can do.

    python bench/run.py                    all workloads; writes docs/benchmarks.md
    python bench/run.py accept_32 idle     these; writes nothing, unless --table says where

A line of JSON for each workload goes to standard output when it is measured, what happens
meanwhile to standard error. Without a PostgreSQL its workloads are left out, and the table says
why. The exit code is 0 when all others were measured, also when a floor was missed: the lines and
the table say so.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import Bench
from machine import ROOT, bench_folder, facts
from postgres_server import NoPostgres
from report import report
from result import encode
from workloads import WORKLOADS, Workload

TABLE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    asked = _arguments()
    names = asked.workload or list(WORKLOADS)
    table = asked.table or (TABLE if not asked.workload and asked.scale == 1 else None)
    with bench_folder() as folder:
        about_machine = facts(folder)
        workloads = {name: WORKLOADS[name] for name in names}
        results, left_out = measure(workloads, Bench(folder, asked.scale))
    if table is not None and results:
        about = {name: inspect.getdoc(WORKLOADS[name]) or "" for name in names}
        table.write_text(report(results, about_machine, about, left_out))
        _say(f"wrote {table.name}")
    missed = [each["workload"] for each in results if not each["met"]]
    _say(f"measured {len(results)} of {len(names)}; below floor: {', '.join(missed) or 'none'}")
    return 0 if len(results) + len(left_out) == len(names) else 1


def measure(
    workloads: Mapping[str, Workload], bench: Bench
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Print a line for each workload; return those that could be measured, and why others
    cannot be here."""
    results: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, workload in workloads.items():
        _say(f"{name} ...")
        start = time.monotonic()
        try:
            line = workload(bench).line()
        except NoPostgres as reason:
            left_out[name] = str(reason)
            _say(f"without {name}: {reason}")
            continue
        except Exception:  # the others are measured all the same
            traceback.print_exc()
            continue
        print(encode(line), flush=True)
        _say(f"{name}: {time.monotonic() - start:.0f} s")
        results.append(line)
    return results, left_out


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure slimq, and the machine beside it.")
    parser.add_argument("workload", nargs="*", help=", ".join(WORKLOADS))
    parser.add_argument("--table", type=Path, help="where the table goes")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="below 1: a short run, whose figures say nothing"
    )
    asked = parser.parse_args()
    unknown = [name for name in asked.workload if name not in WORKLOADS]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}")
    return asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
