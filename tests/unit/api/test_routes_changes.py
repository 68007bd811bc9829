"""Cancel and retry, of one job and by filter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from routes_kit import Bench

from slimq.api.jobs import Waits
from slimq.core.limits import BULK_JOBS_MAX
from slimq.errors import StoreUnavailable
from slimq.journal.record import Header

UNKNOWN = "0000000-testnode-0000"


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def states(bench: Bench) -> dict[str, int]:
    """How many jobs have which status, or state where they have none."""
    counts: dict[str, int] = {}
    for job in bench.get("/jobs?limit=1000").json["jobs"]:
        name = str(job["status"] if job["state"] == "done" else job["state"])
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_a_waiting_job_is_cancelled_and_the_engine_told(bench: Bench):
    id_ = bench.add_one("main/mail")
    reply = bench.post(f"/jobs/{id_}/cancel")
    assert reply.status == 200
    assert (reply.json["id"], reply.json["state"], reply.json["status"]) == (id_, "done", 499)
    assert bench.node.woken == 1


def test_a_running_job_is_cancelled(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.claim("main/mail")
    assert bench.post(f"/jobs/{id_}/cancel").json["status"] == 499


def test_a_done_job_cannot_be_cancelled(bench: Bench):
    reply = bench.post(f"/jobs/{bench.done('main/mail')}/cancel")
    assert (reply.status, reply.slug) == (409, "conflict")
    assert "status 200" in reply.json["detail"]


def test_a_done_job_is_run_again(bench: Bench):
    id_ = bench.done("main/mail", 404)
    assert bench.post(f"/jobs/{id_}/retry").json["state"] == "ready"
    assert bench.node.woken == 1


def test_a_deferred_job_is_run_now(bench: Bench):
    id_ = bench.add_one("main/mail", delay_ms=60_000)
    assert bench.post(f"/jobs/{id_}/retry").json["state"] == "ready"


def test_a_job_that_waits_or_runs_cannot_be_retried(bench: Bench):
    id_ = bench.add_one("main/mail")
    assert "this one is ready" in bench.post(f"/jobs/{id_}/retry").json["detail"]
    bench.claim("main/mail")
    reply = bench.post(f"/jobs/{id_}/retry")
    assert (reply.status, reply.slug) == (409, "conflict")
    assert "this one is running" in reply.json["detail"]


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_an_unknown_job_cannot_be_changed(bench: Bench, verb: str):
    assert bench.post(f"/jobs/{UNKNOWN}/{verb}").slug == "not-found"
    assert bench.post(f"/jobs/x/{verb}").slug == "bad-id"


def test_a_job_that_was_just_accepted_is_changed_once_it_is_in_the_store(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.node.headers[id_] = Header(kind="lines", id=id_, count=1, at=0, type="main/mail")

    async def scene() -> int:
        bench.runner.get_loop().call_later(0.05, bench.node.headers.clear)
        return (await bench.call("POST", f"/jobs/{id_}/cancel")).status

    assert bench.run(scene()) == 200


def test_a_job_that_does_not_reach_the_store_cannot_be_changed(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.node.headers[id_] = Header(kind="lines", id=id_, count=1, at=0, type="main/mail")
    bench.remake(Waits(ingest_s=0.05))
    reply = bench.post(f"/jobs/{id_}/cancel")
    assert (reply.status, reply.slug) == (409, "conflict")


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_a_change_by_filter_needs_a_filter_or_all(bench: Bench, verb: str):
    bench.add_one("main/mail", delay_ms=1000)
    reply = bench.post(f"/jobs/{verb}")
    assert (reply.status, reply.slug) == (400, "bad-parameter")
    assert "all=true" in reply.json["detail"]
    assert bench.post(f"/jobs/{verb}?all=yes").slug == "bad-parameter"
    assert states(bench) == {"deferred": 1}


def test_jobs_are_cancelled_by_filter(bench: Bench):
    bench.add("acme/mail", b"1", b"2")
    bench.add("main/mail", b"3")
    assert bench.post("/jobs/cancel?client=acme").json == {"count": 2}
    assert states(bench) == {"499": 2, "ready": 1}
    assert bench.post("/jobs/cancel?all=true").json == {"count": 1}
    assert bench.node.woken == 2


def test_a_change_by_filter_goes_on_over_many_transactions(bench: Bench):
    count = 2 * BULK_JOBS_MAX + 1
    bench.add("main/mail", *[b"x"] * count)
    assert bench.post("/jobs/cancel?jobtype=mail").json == {"count": count}
    assert bench.node.asked > 3


def test_jobs_that_did_not_succeed_are_retried_and_the_others_only_when_asked_for(bench: Bench):
    bench.done("main/mail", 200)
    bench.done("main/mail", 404)
    bench.done("main/mail", 504)
    assert bench.post("/jobs/retry?jobtype=mail").json == {"count": 2}
    assert states(bench) == {"ready": 2, "200": 1}
    assert bench.post("/jobs/retry?outcome=ok").json == {"count": 1}


def test_a_retry_by_filter_takes_each_job_once_although_they_fail_at_once_again(bench: Bench):
    for _ in range(3):
        bench.done("main/mail", 404)

    def fail_again() -> None:
        bench.clock.ms += 1
        bench.finish_all("main/mail", 404)

    bench.node.before_ask = fail_again
    assert bench.post("/jobs/retry?outcome=failed").json["count"] == 3


def test_a_store_that_goes_down_during_a_change_by_filter_tells_how_far_it_came(bench: Bench):
    bench.add("main/mail", *[b"x"] * (BULK_JOBS_MAX + 1))

    def go_down() -> None:
        if bench.node.asked == 3:
            bench.node.down = StoreUnavailable("locked")

    bench.node.before_ask = go_down
    reply = bench.post("/jobs/cancel?all=true")
    assert (reply.status, reply.slug, reply.json["count"]) == (
        503,
        "store-unavailable",
        BULK_JOBS_MAX,
    )
    assert bench.node.woken == 1
