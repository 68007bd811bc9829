"""The report: a table and a picture for each workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peers.plot import MACHINE, OURS, THEIRS, Bar, number, plot
from peers.summary import Row, is_better_lower

TITLES = {
    "W1": "bulk accept",
    "W2-1": "single accept, 1 caller",
    "W2-32": "single accept, 32 callers",
    "W2-256": "single accept, 256 callers",
    "W3": "drain of a backlog",
    "W4": "idle latency, accept to start (p50)",
    "W5": "drain with a million waiting",
    "W5-5M": "drain with five millions waiting",
    "W6": "idle latency with a million deferred (p50)",
    "W7": "memory of an idle system",
    "W9": "wait while much is accepted (p99)",
    "W10": "time to the first job after a kill",
}
UNITS = {
    "jobs_per_s": "jobs/s",
    "p50_ms": "ms",
    "wait_p99_ms": "ms",
    "first_s": "s",
    "rss_mb": "MB",
}
SMALL = {"W5": "W3", "W5-5M": "W3", "W6": "W4"}  # the same with little waiting
_HEAD = """\
# slimq beside other queues

Made by `make bench-peers`: all of them on one machine, in one run, in turns, each with the setting
in which it keeps jobs on disk, and each as its own documentation tells for speed. What each
workload is, and what is unfair in it, is in `bench/README.md`. Do not compare the figures with
those of other machines, and read what is durable and how many go at a time beside each rate.

Measured is the median of the runs, with their range. CPU is the processor time of all processes for
one job: clients too where jobs are accepted, server and workers where they run. Memory is the
proportional set of server and workers.
"""


def page(
    rows: Sequence[Row],
    facts: Mapping[str, str],
    about: Mapping[str, str],
    reasons: Mapping[str, str],
    folder: str,
) -> str:
    """Return the page, whose pictures are in `folder`. `about` says of each workload what is
    measured, `reasons` of what was left out why."""
    parts = [_HEAD, _table(["machine", ""], [[name, value] for name, value in facts.items()])]
    told: set[str] = set()
    for workload, title in TITLES.items():
        found = [row for row in rows if row.workload == workload]
        if found:
            name = workload.partition("-")[0]
            parts += [f"## {name}: {title}\n", *([] if name in told else [_sentence(about[name])])]
            told.add(name)
            parts.append(f"![{title}]({folder}/{plot_name(workload)})\n")
            parts.append(_measured(workload, found, rows))
    parts.append("## Left out, of all rounds or of the one that is named\n")
    parts += [f"- {what}: {_one_line(why)}" for what, why in reasons.items()] or ["Nothing."]
    return "\n".join(parts) + "\n"


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """Return the pictures by their names."""
    found = {}
    for workload, title in TITLES.items():
        bars = [_bar(row) for row in rows if row.workload == workload and row.low > 0]
        if bars:
            unit = UNITS[next(row.main for row in rows if row.workload == workload)]
            better = "more" if unit == "jobs/s" else "less"
            name = f"{workload}: {title} in {unit}, on a log scale ({better} is better)"
            found[plot_name(workload)] = plot(name, bars)
    return found


def plot_name(workload: str) -> str:
    return f"peers-{workload.lower()}.svg"


def _bar(row: Row) -> Bar:
    machine = row.system.startswith("limit:")
    color = OURS if row.system.startswith("slimq") else MACHINE if machine else THEIRS
    label = row.system if row.batch == "1" or machine else f"{row.system} ({row.batch})"
    return Bar(label, row.value, row.low, row.high, color)


def _measured(workload: str, found: Sequence[Row], rows: Sequence[Row]) -> str:
    main = found[0].main
    more = [name for name in _COLUMNS if name != main and any(name in row.figures for row in found)]
    head = ["system", UNITS[main], "runs", "best slimq is", *[_COLUMNS[name] for name in more]]
    small = SMALL.get(workload)
    if small:
        head.append(f"of {small}")
    ours = next((row.value for row in found if row.system.startswith("slimq")), None)
    lines = []
    for row in found:
        line = [row.system, f"**{number(row.value)}**", _runs(row), _times(row, ours)]
        line += [number(row.figures[name]) if name in row.figures else "" for name in more]
        if small:
            line.append(_share(row, small, rows))
        lines.append([*line, row.batch, row.durability, row.version])
    return _table([*head, "at a time", "durability", "version"], lines)


_COLUMNS = {
    "jobs_per_s": "jobs/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "left": "left",
    "cpu_percent": "CPU %",
    "cpu_us_per_job": "CPU µs a job",
    "rss_mb": "MB",
    "grown_mb": "MB more",
}


def _times(row: Row, ours: float | None) -> str:
    """Return how many times as good the best of slimq is."""
    if ours is None or not row.value or not ours:
        return ""
    better = row.value / ours if is_better_lower(row.main) else ours / row.value
    return f"{better:,.0f} ×" if better >= 10 else f"{better:.2g} ×"


def _share(row: Row, small: str, rows: Sequence[Row]) -> str:
    of = [
        each.value
        for each in rows
        if (each.workload, each.system, each.batch) == (small, row.system, row.batch)
    ]
    return f"{row.value / of[0]:.0%}" if of else ""


def _runs(row: Row) -> str:
    if row.runs == 1:
        return "1"
    return f"{row.runs}: {number(row.low)} to {number(row.high)}"


def _sentence(text: str) -> str:
    said = " ".join(text.split()).partition(": ")[2]
    return f"{said[:1].upper()}{said[1:]}\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
