"""The benchmark: its figures, its table, and a short run of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from postgres_kit import Server

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(name: str) -> ModuleType:
    """Import a module of the benchmark that needs no other one of it."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


result, report = load("result"), load("report")


def rates(value: float, floor: float, limits: list[float], **also: float) -> dict[str, Any]:
    """Return the line of a workload whose higher figure is better."""
    samples = [value * 0.9, value, value * 1.1]
    found = result.Result(
        "accept",
        result.of_runs(samples, "lines/s", floor),
        [result.Limit(limit, f"limit {limit:g}") for limit in limits],
        samples,
        [result.Figure(ms, "ms", 20, lower=True, name=name) for name, ms in also.items()],
    )
    line: dict[str, Any] = json.loads(result.encode(found.line()))
    return line


def rows_of(page: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line[:2] == "| "]


def test_the_measured_value_is_the_median_and_its_range_is_said() -> None:
    line = rates(2_500_000, 2_000_000, [1e7])
    assert (line["value"], line["low"], line["high"]) == (2_500_000, 2_250_000, 2_750_000)
    assert (line["runs"], line["met"]) == (3, True)


def test_of_several_limits_the_tightest_one_counts() -> None:
    line = rates(20_000, 15_000, [50_000, 40_000, 60_000])
    assert (line["limit"], line["limit_is"], line["ratio"]) == (40_000, "limit 40000", 0.5)


def test_a_time_is_better_below_its_floor_and_above_its_limit() -> None:
    found = result.Result(
        "latency",
        result.Figure(2.0, "ms", 3, lower=True),
        [result.Limit(0.5, "fdatasync"), result.Limit(1.0, "fdatasync and commits")],
        [2.0],
    ).line()
    assert (found["met"], found["limit"], found["ratio"]) == (True, 1.0, 0.5)
    assert not result.Figure(3.1, "ms", 3, lower=True).met


def test_a_workload_is_met_only_when_all_of_its_floors_are() -> None:
    assert rates(20_000, 15_000, [1e5], p99_ms=19.9)["met"]
    line = rates(20_000, 15_000, [1e5], p99_ms=20.5)
    assert not line["met"]
    assert line["p99_ms"] == 20.5


def test_the_table_has_floor_limit_share_and_runs_beside_each_figure() -> None:
    line = rates(2_500_000, 2_000_000, [1e7])
    page = report.report([line], {"CPU": "two cores"}, {"accept": "What\n    it is."}, {})
    measured = "**2,500,000 lines/s**"
    limit = "10,000,000: limit 1e+07"
    runs = "3: 2,250,000 to 2,750,000"
    row = ["accept", measured, "≥ 2,000,000", "met", limit, "25%", runs]
    assert row in rows_of(page)
    assert ["CPU", "two cores"] in rows_of(page)
    assert "Every floor is met." in page
    assert "**accept**: What it is." in page


def test_the_table_says_plainly_what_is_below_its_floor() -> None:
    lines = [rates(1_000_000, 2_000_000, [1e7]), rates(20_000, 15_000, [1e5], p99_ms=25)]
    page = report.report(lines, {}, {"accept": ""}, {})
    assert "**Below their floor: accept, accept.**" in page
    below = [row[:4] for row in rows_of(page) if "**below floor**" in row]
    assert below == [
        ["accept", "**1,000,000 lines/s**", "≥ 2,000,000", "**below floor**"],
        ["accept, p99", "**25 ms**", "≤ 20", "**below floor**"],
    ]


def test_the_table_says_what_was_left_out_and_why() -> None:
    line = rates(2_500_000, 2_000_000, [1e7])
    page = report.report([line], {}, {"accept": ""}, {"postgres_idle": "no server"})
    assert "Not measured: postgres_idle, because of this: no server" in page


WITHOUT_SERVER = """
import run, result
from postgres_server import NoPostgres

def absent(bench):
    raise NoPostgres("no server")

def there(bench):
    return result.Result("there", result.Figure(2, "s"), [result.Limit(1, "x")], [2])

results, left_out = run.measure({"absent": absent, "there": there}, None)
assert [each["workload"] for each in results] == ["there"]
assert left_out == {"absent": "no server"}
"""


def test_what_needs_a_server_is_left_out_where_there_is_none_and_the_reason_is_said() -> None:
    command = [sys.executable, "-c", WITHOUT_SERVER]
    ran = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "without absent: no server" in ran.stderr


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_short_run_prints_a_line_for_each_workload_and_writes_the_table(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    names = ["accept_32", "exec_batch"]
    ran = run(*names, "--scale", "0.01", "--table", str(table))
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["workload"] for line in lines] == names
    for line in lines:
        assert line["value"] > 0
        assert line["limit"] > 0
        assert {"unit", "floor", "met", "limit_is", "ratio", "runs"} <= line.keys()
    assert {row[0] for row in rows_of(table.read_text())} >= set(names)


@pytest.mark.parametrize("what", ["ingest", "drain", "backlog", "bloat", "takeover", "idle"])
def test_a_short_run_measures_postgres(postgres: Server, what: str) -> None:
    ran = run(f"postgres_{what}", "--scale", "0.001")
    assert ran.returncode == 0, ran.stderr
    line = json.loads(ran.stdout)
    assert line["workload"] == f"postgres_{what}"
    assert {"unit", "floor", "met", "limit_is", "ratio", "runs"} <= line.keys()


@pytest.mark.parametrize("words", [["accept_33"], ["--scale", "much"]])
def test_a_wrong_command_line_is_refused_before_anything_is_measured(words: list[str]) -> None:
    ran = run(*words)
    assert ran.returncode == 2
    assert ran.stdout == ""
