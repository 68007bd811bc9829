"""The lines of results.jsonl: one for each run of a proof, and what they add up to.

A line is what the proof said (`proof`, `test`, `seed`, `seconds`, `passed`, `figures`), with the
commit that was proved, the time, and the machine. Lines are only ever added.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
RESULTS = FOLDER / "results.jsonl"

Line = Mapping[str, Any]


def read(path: Path = RESULTS) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_last_commit(lines: list[Line]) -> list[Line]:
    """Return the lines of the commit that was proved last."""
    return of_commit(lines, lines[-1]["commit"]) if lines else []


def of_commit(lines: Iterable[Line], commit: str) -> list[Line]:
    return [line for line in lines if line["commit"] == commit]


def append(said: Line, commit: str, path: Path = RESULTS) -> Line:
    line = {**said, "commit": commit, "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}"} | {
        "machine": machine()
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine. It has no name here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": _filesystem_of(ROOT),
        "python": platform.python_version(),
    }


def sums(lines: Iterable[Line], names: Iterable[str]) -> dict[str, int]:
    """Return what runs that passed add up to."""
    passed = [line["figures"] for line in lines if line["passed"]]
    return {name: sum(figures.get(name, 0) for figures in passed) for name in names}


def _filesystem_of(path: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max((len(point), kind) for point, kind in mounts if path.is_relative_to(point))[1]
