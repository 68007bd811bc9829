"""Medians and spread of many lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

Line = Mapping[str, Any]
FIGURES = (
    "jobs_per_s",
    "p50_ms",
    "p99_ms",
    "wait_p99_ms",
    "left",
    "first_s",
    "cpu_us_per_job",
    "rss_mb",
    "grown_mb",
    "cpu_percent",
)
MAIN = {"W4": "p50_ms", "W6": "p50_ms", "W7": "rss_mb", "W9": "wait_p99_ms", "W10": "first_s"}


@dataclass(frozen=True)
class Row:
    """One system in one workload. `figures` are the medians of what was measured, `low` and `high`
    the range of the main one."""

    workload: str
    system: str
    batch: str
    durability: str
    version: str
    runs: int
    main: str
    figures: Mapping[str, float]
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.figures[self.main]


def main_figure(workload: str) -> str:
    """Return which figure a workload is about."""
    return MAIN.get(workload, "jobs_per_s")


def is_better_lower(figure: str) -> bool:
    return figure != "jobs_per_s"


def summarize(lines: Iterable[Line]) -> list[Row]:
    """Return a row for each system, setting and batch of each workload; the best come first."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        key = tuple(line[name] for name in ("workload", "system", "durability", "batch"))
        groups.setdefault(key, []).append(line)
    rows = [_row(group) for group in groups.values()]
    return sorted(rows, key=lambda row: (row.workload, _rank(row)))


def _rank(row: Row) -> float:
    return row.value if is_better_lower(row.main) else -row.value


def _row(group: list[Line]) -> Row:
    last, main = group[-1], main_figure(group[-1]["workload"])
    figures = {
        name: median([line[name] for line in group if line.get(name) is not None])
        for name in FIGURES
        if any(line.get(name) is not None for line in group)
    }
    values = [line[main] for line in group]
    names = ("workload", "system", "batch", "durability", "version")
    said = {name: last[name] for name in names}
    return Row(
        **said, runs=len(group), main=main, figures=figures, low=min(values), high=max(values)
    )
