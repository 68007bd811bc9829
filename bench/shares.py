"""What share of a physical limit a workload reaches, and whether it reaches less than before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

LOSS_MAX = 0.15  # of the share that it was: above what a noisy neighbour does to the median
Shares = Mapping[str, Mapping[str, float]]


class Incomparable(RuntimeError):
    """The baseline is of other workloads or limits than those that were measured."""


def shares(line: Mapping[str, Any]) -> dict[str, float]:
    """Return by each limit of a workload how much of it was reached; 1 is all of it."""
    value, lower = line["value"], line["better"] == "lower"
    return {
        limit["is"]: limit["value"] / value if lower else value / limit["value"]
        for limit in line["limits"]
    }


def medians(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the median share of some rounds, by workload and limit."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        for limit, share in shares(line).items():
            found.setdefault(line["workload"], {}).setdefault(limit, []).append(share)
    return {
        workload: {limit: median(each) for limit, each in by_limit.items()}
        for workload, by_limit in found.items()
    }


def kept(baseline: Shares, now: Shares) -> dict[str, float]:
    """Return for each workload what part of its former share it kept.

    A slower workload loses against each of its limits, a noisy limit only against itself: so the
    limit counts against which least was lost. Raises Incomparable.
    """
    found = {}
    for workload, measured in now.items():
        before = baseline.get(workload, {})
        if set(before) != set(measured):
            raise Incomparable(
                f"the baseline has not {workload} with these limits; once you know why, write it "
                "anew: make bench-check BASELINE=write"
            )
        found[workload] = max(measured[limit] / before[limit] for limit in before)
    return found


def lost(parts: Mapping[str, float]) -> list[str]:
    """Return the workloads that lost too much."""
    return [workload for workload, part in parts.items() if part < 1 - LOSS_MAX]
