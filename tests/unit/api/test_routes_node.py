"""The node itself: control, status, health, metrics, and the app around all routes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import pytest
from prometheus_client.parser import text_string_to_metric_families
from routes_kit import SYSID, Bench

from slimq import __version__
from slimq.api.metrics import METRIC_NAMES
from slimq.errors import DiskFull, JournalFailed, StoreUnavailable

FACTS = {
    "store": {
        "error": None,
        "dead_rows": 8,
        "oldest_snapshot_ms": 2500,
        "warnings": ["synchronous_commit is off"],
    },
    "journal": {"error": None, "pending_bytes": 10, "bytes": 20, "quarantined": 1},
    "engine": {"oldest_waiting_ms": 1500, "running_batches": 2, "running_jobs": 3},
    "functions": {
        "contexts": {"busy": 1, "idle": 2},
        "starts": {"cold": 3, "warm": 4, "failed": 5},
        "ends": {"recycled": 6},
    },
    "counters": {
        "accepted": 7,
        "ingested": 6,
        "finished": {"ok": 4, "failed": 1, "retry": 2, "error": 3},
        "purged": 1,
        "freed": 2,
        "leases_lost": 3,
        "stale_completions": 4,
    },
}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


# Control.


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_engine_is_suspended_resumed_and_drained(bench: Bench, method: str):
    def state(path: str) -> str:
        reply = bench.run(bench.call(method, path))
        assert (reply.status, reply.json["ok"]) == (200, True)
        return str(reply.json["state"])

    assert state("/stop") == "stopped"
    assert bench.node.stopped
    assert state("/start") == "running"
    assert not bench.node.stopped
    assert state("/quit") == "quitting"
    assert bench.node.quitting
    assert state("/stop") == "quitting"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_purpose": "prefetch;prerender"},
        {"purpose": "prefetch"},
        {"x_moz": "prefetch"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_what_a_browser_fetches_on_its_own_stops_nothing(bench: Bench, headers: dict[str, str]):
    reply = bench.get("/quit", **headers)
    assert (reply.status, reply.slug) == (403, "forbidden")
    assert not bench.node.quitting


def test_head_does_not_stand_for_a_get_that_acts(bench: Bench):
    reply = bench.run(bench.call("HEAD", "/quit"))
    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST")
    assert not bench.node.quitting
    assert bench.run(bench.call("HEAD", "/healthz")).status == 200


def test_control_works_while_the_store_is_down(bench: Bench):
    bench.node.down = StoreUnavailable("locked")
    assert bench.get("/stop").json == {"ok": True, "state": "stopped"}


# Status.


def test_the_root_says_ok_and_shows_browsers_a_page_that_loads_nothing(bench: Bench):
    assert (bench.get("/").body, bench.get("/").status) == (b"OK", 200)
    page = bench.get("/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert b'href="/status"' in page.body
    assert b"src=" not in page.body


def test_the_status_tells_of_the_node_the_store_the_nodes_and_what_nobody_runs(bench: Bench):
    bench.node.facts = FACTS
    bench.register()
    bench.add_one("acme/mail")
    bench.add_one("acme/sms")
    bench.handler("sms")
    status = bench.get("/status").json
    assert (status["sysid"], status["version"], status["state"]) == (SYSID, __version__, "running")
    assert status["node"] == FACTS
    assert (status["store"]["up"], status["store"]["error"], status["store"]["types"]) == (
        True,
        None,
        2,
    )
    assert (status["jobs"]["waiting"], status["jobs"]["error"]) == (2, 0)
    assert status["types_without_handler"] == ["acme/mail"]
    assert status["nodes"] == [
        {
            "sysid": SYSID,
            "started_at": "2026-11-18T11:06:40.000Z",
            "seen_at": "2026-11-18T11:06:40.000Z",
            "about": {"pid": 1},
        }
    ]


def test_a_type_without_handler_that_has_nothing_waiting_is_not_listed(bench: Bench):
    bench.done("acme/mail")
    assert bench.get("/status").json["types_without_handler"] == []


def test_only_the_first_types_without_handler_are_listed(bench: Bench):
    for number in range(101):
        bench.add_one(f"main/type{number:03d}")
    unserved = bench.get("/status").json["types_without_handler"]
    assert (len(unserved), unserved[0], unserved[-1]) == (100, "main/type000", "main/type099")


def test_the_status_says_what_is_wrong_with_the_store(bench: Bench):
    bench.node.down = StoreUnavailable("store.db is locked")
    reply = bench.get("/status")
    assert reply.status == 200
    assert reply.json["store"] == {"up": False, "error": "store.db is locked"}


def test_a_healthy_node_is_ok(bench: Bench):
    assert bench.get("/healthz").json == {"status": "ok", "problems": []}
    assert bench.get("/readyz").json == {"status": "ready"}


def test_a_node_without_store_is_degraded_but_ready(bench: Bench):
    bench.node.facts = {"store": {"error": "locked"}}
    bench.node.down = StoreUnavailable("locked")
    health = bench.get("/healthz")
    assert (health.status, health.json) == (
        200,
        {"status": "degraded", "problems": ["store: locked"]},
    )
    assert bench.get("/readyz").status == 200


@pytest.mark.parametrize("refusal", [JournalFailed("fsync failed"), DiskFull("no space")])
def test_a_node_whose_journal_refuses_is_degraded_and_not_ready(
    bench: Bench, refusal: JournalFailed | DiskFull
):
    bench.refusal = refusal
    health = bench.get("/healthz")
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["problems"] == [f"journal: {refusal.detail}"]
    ready = bench.get("/readyz")
    assert (ready.status, ready.slug) == (503, "unavailable")
    assert refusal.detail in ready.json["detail"]
    assert ready.headers["retry-after"] == "1"


def test_a_node_that_drains_is_not_ready(bench: Bench):
    bench.get("/quit")
    reply = bench.get("/readyz")
    assert (reply.status, reply.slug) == (503, "shutting-down")
    assert bench.get("/healthz").status == 200


# Metrics.


def _metrics(bench: Bench) -> dict[str, float]:
    reply = bench.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            labels = "".join(f"{{{name}={value}}}" for name, value in sample.labels.items())
            samples[sample.name + labels] = sample.value
    return samples


def test_the_metrics_are_what_the_node_knows_in_base_units(bench: Bench):
    bench.node.facts = FACTS
    samples = _metrics(bench)
    assert samples["slimq_jobs_accepted_total"] == 7
    assert samples["slimq_jobs_finished_total{outcome=ok}"] == 4
    assert samples["slimq_jobs_finished_total{outcome=error}"] == 3
    assert samples["slimq_journal_pending_bytes"] == 10
    assert samples["slimq_oldest_waiting_seconds"] == 1.5
    assert samples["slimq_store_dead_rows"] == 8
    assert samples["slimq_store_oldest_snapshot_seconds"] == 2.5
    assert samples["slimq_contexts{state=idle}"] == 2
    assert samples["slimq_function_runs_total{start=warm}"] == 4
    assert samples["slimq_contexts_ended_total{why=recycled}"] == 6
    assert samples["slimq_store_warnings"] == 1
    assert samples["slimq_leases_lost_total"] == 3
    assert samples["slimq_stale_completions_total"] == 4
    assert samples[f"slimq_build_info{{version={__version__}}}"] == 1
    assert samples["slimq_engine_running"] == 1
    assert samples["process_resident_memory_bytes"] > 1_000_000
    named = {name.partition("{")[0] for name in samples if name.startswith("slimq_")}
    assert named == set(METRIC_NAMES)


def test_the_metrics_work_while_the_store_is_down_and_say_so(bench: Bench):
    bench.node.facts = {**FACTS, "store": {"error": "locked"}}
    bench.node.down = StoreUnavailable("locked")
    assert _metrics(bench)["slimq_store_up"] == 0
    assert bench.node.asked == 0


def test_a_figure_that_the_node_does_not_know_is_not_made_up(bench: Bench):
    bench.node.stopped = True
    samples = _metrics(bench)
    assert "slimq_jobs_accepted_total" not in samples
    assert samples["slimq_engine_running"] == 0
    assert samples["slimq_store_up"] == 1


# The app.


def test_an_unknown_route_is_answered_by_name(bench: Bench):
    for path in ("/nothing", "/jobs/", "/add/", "//", "/handlers/a/b"):
        reply = bench.get(path)
        assert (reply.status, reply.slug, reply.json["route"]) == (404, "no-route", path)


def test_a_wrong_method_is_answered_with_the_right_ones(bench: Bench):
    reply = bench.delete("/jobs")
    assert (reply.status, reply.slug) == (405, "wrong-method")
    assert reply.headers["allow"] == "GET, POST, HEAD"
    assert "GET, POST, HEAD" in reply.json["detail"]
    assert bench.post("/types/mail").headers["allow"] == "GET, PATCH, HEAD"
    assert bench.get("/jobs/cancel").headers["allow"] == "POST"
    assert bench.get("/add").headers["allow"] == "POST"
    assert bench.run(bench.call("OPTIONS", "/")).status == 405


def test_errors_are_plain_text_for_those_who_ask_for_it(bench: Bench):
    reply = bench.get("/nothing", accept="text/plain")
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.body == b"No such route: there is no route /nothing; /openapi.json lists all\n"


@pytest.mark.parametrize("path", ["/", "/start", "/status", "/healthz", "/readyz", "/metrics"])
def test_a_route_without_parameters_refuses_all(bench: Bench, path: str):
    assert bench.get(f"{path}?x=1").slug == "bad-parameter"


def test_a_bug_is_told_apart_from_a_store_that_is_down_and_says_nothing_more(bench: Bench):
    def broken() -> None:
        raise ZeroDivisionError("secret")

    bench.node.before_ask = broken
    with pytest.raises(ZeroDivisionError):  # the server logs it
        bench.get("/jobs")
    reply = bench.last
    assert (reply.status, reply.slug) == (500, "internal")
    assert b"secret" not in reply.body


def test_the_document_of_the_api_is_served_as_it_is_packaged(bench: Bench):
    packaged = resources.files("slimq.api").joinpath("openapi.json").read_bytes()
    reply = bench.get("/openapi.json")
    assert (reply.body, reply.headers["content-type"]) == (packaged, "application/json")


def test_no_answer_names_what_serves_it(bench: Bench):
    assert "server" not in bench.get("/").headers


def test_lines_and_jobs_are_accepted_through_the_app(bench: Bench):
    added = bench.post("/add?jobtype=mail", b"one\ntwo\n")
    assert (added.status, added.json["count"]) == (202, 2)
    posted = bench.post("/jobs", b'{"jobtype":"mail","data":"x"}')
    assert (posted.status, posted.headers["location"]) == (202, f"/jobs/{posted.json['ids'][0]}")


# Nodes.


def test_all_nodes_are_listed_the_longest_running_first_with_what_they_say(bench: Bench):
    bench.register("zzzzzzzz", roles=["run"], clock_skew_ms=-7, journal_pending_bytes=11)
    bench.clock.ms += 1000
    bench.register("aaaaaaaa", version="0.0.1", secret="of another version")
    bench.clock.ms += 500
    first, second = bench.get("/nodes").json["nodes"]
    assert (first["sysid"], first["roles"], first["silent_ms"]) == ("zzzzzzzz", ["run"], 1500)
    assert (first["clock_skew_ms"], first["journal_pending_bytes"]) == (-7, 11)
    assert (second["sysid"], second["version"], second["roles"]) == ("aaaaaaaa", "0.0.1", None)
    assert "secret" not in second


@pytest.mark.parametrize(
    ("silent_ms", "state"),
    [(0, "alive"), (15_000, "alive"), (15_001, "silent"), (29_999, "silent"), (30_000, "dead")],
)
def test_a_node_is_silent_when_it_missed_a_beat_and_dead_when_its_leases_are_over(
    bench: Bench, silent_ms: int, state: str
):
    bench.register()
    bench.clock.ms += silent_ms
    (node,) = bench.get("/nodes").json["nodes"]
    assert (node["state"], node["silent_ms"]) == (state, silent_ms)
