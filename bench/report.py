"""The table of docs/benchmarks.md, from the lines that the workloads printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """\
# Benchmarks

Made by `make bench`, which measures every workload and, in the same run and on the same disk, the
physical limit of the machine for it. The nodes are real processes with the default settings,
durability `journal` (on disk, with an fdatasync, before the answer) among them; caller, node and
handler share the cores. Do not compare the rates with those of other machines: the share of the
limit is what travels.
"""
_NOTES = """\
A floor is the least that must be reached (≤: the most). A limit is what the machine does when
nothing but the unavoidable is done; of several limits the tightest counts. A share of 100 % would
leave nothing for HTTP, ids, leases, retries and the status of every job. Measured is the median
where there are several runs, whose range is given.
"""


def report(
    results: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    about: Mapping[str, str],
    left_out: Mapping[str, str],
) -> str:
    """Return the page. `about` says of each workload what is measured, `left_out` why it
    could not be."""
    parts = [
        _HEAD,
        _table(["machine", ""], [[name, value] for name, value in facts.items()]),
        "## Floors\n",
        _table(["workload", "measured", "floor", "", "limit", "share", "runs"], _rows(results)),
        _NOTES,
        _below(results),
        *[f"Not measured: {name}, because of this: {why}\n" for name, why in left_out.items()],
        "## Further figures\n",
        _table(["workload", "figure", "measured"], _further(results)),
        "## Limits\n",
        _table(["workload", "limit", "measured"], _limits(results)),
        "## What is measured\n",
        *[f"**{each['workload']}**: {_paragraph(about[each['workload']])}\n" for each in results],
    ]
    return "\n".join(parts)


def _rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for each in results:
        measured = f"**{_amount(each)}**"
        limit = f"{_number(each['limit'])}: {each['limit_is']}"
        runs = _runs(each)
        row = [each["workload"], measured, *_floor(each), limit, f"{each['ratio']:.0%}", runs]
        rows.append(row)
        for other in each["also"]:
            if "floor" in other:
                name = f"{each['workload']}, {_name(other)}"
                rows.append([name, f"**{_amount(other)}**", *_floor(other), "", "", ""])
    return rows


def _floor(figure: Mapping[str, Any]) -> list[str]:
    sign = "≤" if figure["better"] == "lower" else "≥"
    value = (
        figure["value"] <= figure["floor"] if sign == "≤" else figure["value"] >= figure["floor"]
    )
    return [f"{sign} {_number(figure['floor'])}", "met" if value else "**below floor**"]


def _below(results: Sequence[Mapping[str, Any]]) -> str:
    missed = [each["workload"] for each in results if not each["met"]]
    if not missed:
        return "Every floor is met.\n"
    return f"**Below their floor: {', '.join(missed)}.**\n"


def _further(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [each["workload"], _name(other), _amount(other)]
        for each in results
        for other in each["also"]
        if "floor" not in other
    ]


def _limits(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [each["workload"], limit["is"], f"{_number(limit['value'])} {each['unit']}"]
        for each in results
        for limit in each["limits"]
    ]


def _runs(result: Mapping[str, Any]) -> str:
    if result["runs"] == 1:
        return "1"
    return f"{result['runs']}: {_number(result['low'])} to {_number(result['high'])}"


def _name(figure: Mapping[str, Any]) -> str:
    return str(figure["name"]).removesuffix("_ms").replace("_", " ")


def _amount(figure: Mapping[str, Any]) -> str:
    return f"{_number(figure['value'])} {figure['unit']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
