"""The comparison with other queues: its medians, its report, and a short run of slimq alone; and
the check whether a commit is slower."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """Import a module or package of the benchmark without making its others importable."""
    folders = None if folder is None else [str(folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


load("peers", BENCH / "peers" / "__init__.py", BENCH / "peers")
shares = load("bench_shares", BENCH / "shares.py")
summary = importlib.import_module("peers.summary")
plot = importlib.import_module("peers.plot")
page = importlib.import_module("peers.page")


def line(system: str, workload: str = "W3", batch: str = "1", **figures: float) -> dict[str, Any]:
    said = {"durability": "fsync", "version": "1.0", "commit": "abc"}
    return {"system": system, "workload": workload, "batch": batch} | said | figures


# --- medians -----------------------------------------------------------------------------


def test_the_figures_of_a_system_are_the_medians_of_its_runs_and_their_range_is_kept() -> None:
    rates = [900, 5000, 1000, 1100, 100]
    (row,) = summary.summarize([line("huey", jobs_per_s=rate, cpu_us_per_job=7) for rate in rates])
    assert (row.value, row.low, row.high, row.runs) == (1000, 100, 5000, 5)
    assert row.figures == {"jobs_per_s": 1000, "cpu_us_per_job": 7}


def test_a_system_is_one_row_for_each_batch_and_the_best_comes_first() -> None:
    lines = [
        line("slimq", batch="1", jobs_per_s=5_000),
        line("huey", jobs_per_s=1_000),
        line("slimq", batch="1,000", jobs_per_s=60_000),
    ]
    found = [(row.system, row.batch) for row in summary.summarize(lines)]
    assert found == [("slimq", "1,000"), ("slimq", "1"), ("huey", "1")]


def test_the_best_latency_is_the_least() -> None:
    lines = [line("slow", "W4", p50_ms=20.0), line("quick", "W4", p50_ms=1.0)]
    assert [row.system for row in summary.summarize(lines)] == ["quick", "slow"]


def test_a_figure_that_only_some_runs_have_is_their_median() -> None:
    lines = [line("huey", jobs_per_s=10, p99_ms=3.0), line("huey", jobs_per_s=10)]
    (row,) = summary.summarize(lines)
    assert row.figures["p99_ms"] == 3.0


# --- the report --------------------------------------------------------------------------


def report(lines: list[dict[str, Any]], left_out: dict[str, str] | None = None) -> str:
    about = {
        name: f"{name}, as it is: what is done, as a Sentence."
        for name in ("W2", "W3", "W4", "W5", "W7")
    }
    facts = {"CPU": "two cores"}
    text: str = page.page(summary.summarize(lines), facts, about, left_out or {}, "plots")
    return text


def rows_of(text: str) -> list[list[str]]:
    lines = [each for each in text.splitlines() if each[:2] == "| "]
    return [[cell.strip() for cell in each[1:-1].split("|")] for each in lines]


def test_the_report_says_how_many_times_as_good_slimq_is_and_what_is_durable() -> None:
    text = report([line("slimq", jobs_per_s=60_000), line("huey", jobs_per_s=1_500)])
    row = next(row for row in rows_of(text) if row[0] == "huey")
    assert row == ["huey", "**1,500**", "1", "40 ×", "1", "fsync", "1.0"]
    assert "## W3: drain of a backlog" in text
    assert "What is done, as a Sentence." in text


def test_a_lower_latency_of_a_peer_shows_as_a_factor_below_one() -> None:
    text = report([line("slimq", "W4", p50_ms=2.0), line("nats", "W4", p50_ms=1.0)])
    assert next(row for row in rows_of(text) if row[0] == "nats")[3] == "0.5 ×"


def test_a_large_backlog_is_compared_with_the_small_one_of_the_same_system() -> None:
    lines = [line("pgq", jobs_per_s=20_000), line("pgq", "W5", jobs_per_s=5_000)]
    lines += [line("nats", jobs_per_s=50_000), line("slimq", "W5", jobs_per_s=60_000)]
    rows = {row[0]: row for row in rows_of(report(lines).partition("## W5")[2])}
    assert "25%" in rows["pgq"]
    assert "" in rows["slimq"]


def test_the_report_says_what_was_left_out_and_why() -> None:
    text = report([line("slimq", jobs_per_s=1)], {"W5: RQ (1)": "it would take\n 900 s"})
    assert "- W5: RQ (1): it would take 900 s" in text.partition("## Left out")[2]


# --- the pictures ------------------------------------------------------------------------


def widths(picture: str) -> list[float]:
    root = ElementTree.fromstring(picture)
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    return [float(each.attrib["width"]) for each in bars]


def test_a_bar_is_as_much_longer_for_each_power_of_ten() -> None:
    values = [100.0, 1_000.0, 10_000.0]
    bars = [plot.Bar(f"<{value}>", value, value, value, plot.OURS) for value in values]
    short, middle, long = widths(plot.plot("a & b", bars))
    assert short > 0
    assert middle - short == pytest.approx(long - middle, abs=0.2)


def test_there_is_a_picture_for_each_workload_that_was_measured() -> None:
    lines = [line("slimq", "W2-32", jobs_per_s=10), line("slimq", "W7", rss_mb=50)]
    found = page.plots(summary.summarize(lines))
    assert set(found) == {"peers-w2-32.svg", "peers-w7.svg"}
    for name in found:
        assert f"(plots/{name})" in report(lines)


# --- a short run -------------------------------------------------------------------------


def test_a_short_run_measures_slimq_by_its_public_api_and_writes_the_report(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "run_peers.py"), "--peers", "slimq", "--rounds", "1"]
    command += ["--workloads", "W1 W2 W4 W5 W9 W10", "--scale", "0.002"]
    command += ["--page", str(tmp_path / "page.md"), "--lines", str(tmp_path / "lines")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(each) for each in ran.stdout.splitlines()]
    ours = [each for each in lines if each["system"] == "slimq"]
    measured = {each["workload"].partition("-")[0] for each in ours}
    assert measured == {"W1", "W2", "W4", "W5", "W9", "W10"}, ran.stderr
    for each in ours:
        assert {"round", "durability", "batch", "n", "rss_mb", "commit", "version"} <= each.keys()
        assert each[summary.main_figure(each["workload"])] > 0
    assert "limit: write + fdatasync" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "plots" / "peers-w1.svg").exists()


@pytest.mark.parametrize("words", [["--peers", "celeri"], ["--workloads", "W8"]])
def test_an_unknown_peer_or_workload_is_refused_before_anything_is_measured(
    words: list[str],
) -> None:
    command = [sys.executable, str(BENCH / "run_peers.py"), *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "known:" in ran.stderr
    assert ran.stdout == ""


# --- whether a commit is slower ----------------------------------------------------------


def measured(value: float, better: str = "higher", **limits: float) -> dict[str, Any]:
    named = [{"is": name, "value": limit} for name, limit in limits.items()]
    return {"workload": "drain", "value": value, "better": better, "limits": named}


def test_the_share_of_a_limit_is_of_the_rate_or_of_the_time() -> None:
    assert shares.shares(measured(50, disk=200)) == {"disk": 0.25}
    assert shares.shares(measured(2.0, "lower", disk=0.5)) == {"disk": 0.25}


def test_the_share_of_some_rounds_is_their_median() -> None:
    lines = [measured(value, disk=100) for value in (50, 1, 60)]
    assert shares.medians(lines) == {"drain": {"disk": 0.5}}


def test_a_loss_of_more_than_15_percent_is_told() -> None:
    baseline = {"drain": {"disk": 0.5}}
    assert shares.lost(shares.kept(baseline, {"drain": {"disk": 0.42}})) == ["drain"]
    assert shares.lost(shares.kept(baseline, {"drain": {"disk": 0.43}})) == []
    assert shares.lost(shares.kept(baseline, {"drain": {"disk": 0.9}})) == []


def test_a_limit_that_became_faster_alone_is_no_loss_of_the_workload() -> None:
    baseline = {"drain": {"disk": 0.5, "server": 0.1}}
    assert shares.lost(shares.kept(baseline, {"drain": {"disk": 0.2, "server": 0.1}})) == []
    assert shares.lost(shares.kept(baseline, {"drain": {"disk": 0.2, "server": 0.05}})) == ["drain"]


@pytest.mark.parametrize("now", [{"ingest": {"disk": 0.5}}, {"drain": {"tape": 0.5}}])
def test_a_baseline_of_something_else_is_not_compared(now: dict[str, dict[str, float]]) -> None:
    with pytest.raises(shares.Incomparable, match="BASELINE=write"):
        shares.kept({"drain": {"disk": 0.5}}, now)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    ran = check("--write", "--baseline", str(path))
    assert ran.returncode == 0, ran.stderr
    return path


def check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(BENCH / "check.py"),
        "http_batch100",
        "--scale",
        "0.01",
        "--rounds",
        "1",
    ]
    command += words
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_check_fails_only_when_more_of_the_limit_was_reached_before(baseline: Path) -> None:
    written = json.loads(baseline.read_text())
    of_limits = written["shares"]["http_batch100"]
    for part, code in ((0.01, 0), (100, 1)):
        changed = {name: part * share for name, share in of_limits.items()}
        baseline.write_text(json.dumps(written | {"shares": {"http_batch100": changed}}))
        ran = check("--baseline", str(baseline))
        assert ran.returncode == code, ran.stderr
        assert "of its share at" in ran.stderr


def test_a_check_without_a_baseline_says_how_to_write_one(tmp_path: Path) -> None:
    ran = check("--baseline", str(tmp_path / "none.json"))
    assert ran.returncode == 2
    assert "make bench-check BASELINE=write" in ran.stderr


# --- what handlers count -----------------------------------------------------------------

COUNT = """
import os, hits
hits.hit("nothing special"); hits.hit(hits.stamped()); hits.hit(hits.stamped().encode(), 3)
if os.fork() == 0:
    hits.hit(b"of a child")
    os._exit(0)
os.wait()
"""


def test_each_process_counts_its_own_handlers_and_the_latency_of_stamped_jobs(
    tmp_path: Path,
) -> None:
    hits = load("bench_hits", BENCH / "peers" / "programs" / "hits.py")
    env = os.environ | {hits.FOLDER: str(tmp_path)}
    where = BENCH / "peers" / "programs"
    subprocess.run([sys.executable, "-c", COUNT], cwd=where, env=env, timeout=60, check=True)
    found = {}
    for path in tmp_path.iterdir():
        count, first, last, latencies = hits.HEAD.unpack_from(path.read_bytes())
        assert 0 < first <= last
        found[count] = latencies
    assert found == {5: 2, 1: 0}
