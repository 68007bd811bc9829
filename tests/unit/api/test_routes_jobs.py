"""`GET /jobs…`: lists, one job, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from routes_kit import SYSID, Bench, Reply

from slimq.api.jobs import JobRoutes, Waits
from slimq.core.job import Result
from slimq.core.jobid import Minter
from slimq.core.limits import LEASE_MS, WAIT_MAX_S
from slimq.errors import StoreUnavailable
from slimq.journal.record import Header
from slimq.store.base import NewJobs

UNKNOWN = "0000000-testnode-0000"


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_a_list_shows_the_newest_jobs_first_and_without_data(bench: Bench):
    first, second = bench.add("acme/mail", b"one", b"two")
    jobs = bench.get("/jobs").json["jobs"]
    assert [job["id"] for job in jobs] == [second, first]
    assert jobs[0] == {
        "id": second,
        "type": "acme/mail",
        "client": "acme",
        "jobtype": "mail",
        "state": "ready",
        "status": None,
        "attempt": 0,
        "failures": 0,
        "crashes": 0,
        "accepted_at": "2026-11-18T11:06:40.000Z",
        "due_at": "2026-11-18T11:06:40.000Z",
        "error": "",
    }


@pytest.mark.parametrize("limit", [1, 3, 7, 24, 25, 26])
def test_pages_follow_the_cursor_without_gaps_or_repeats(bench: Bench, limit: int):
    ids = bench.add("main/mail", *[b"x"] * 25)
    seen: list[str] = []
    target: str | None = f"/jobs?limit={limit}"
    while target:
        page = bench.get(target).json
        assert 1 <= len(page["jobs"]) <= limit
        seen += [job["id"] for job in page["jobs"]]
        target = page["next"] and f"/jobs?limit={limit}&before={page['next']}"
        bench.add_one("main/mail")  # what comes in meanwhile is newer than every cursor
    assert seen == ids[::-1]


def test_a_list_is_filtered_by_client_jobtype_state_and_outcome(bench: Bench):
    waiting = bench.add_one("acme/mail", delay_ms=1000)
    bench.clock.ms += 1
    failed = bench.done("acme/sms", 404)
    ok = bench.done("main/mail")

    def ids(filters: str) -> list[str]:
        return [job["id"] for job in bench.get(f"/jobs?{filters}").json["jobs"]]

    assert ids("client=acme") == [failed, waiting]
    assert ids("jobtype=mail") == [ok, waiting]
    assert ids("client=acme&jobtype=mail") == [waiting]
    assert ids("state=deferred") == [waiting]
    assert ids("state=done") == [ok, failed]
    assert ids("outcome=failed") == [failed]
    assert ids("state=done&outcome=ok") == [ok]
    assert ids("client=nobody") == []


def test_a_list_is_bounded_by_time_from_since_up_to_before_until(bench: Bench):
    ids = []
    for _ in range(3):
        ids.append(bench.add_one("main/mail"))
        bench.clock.ms += 1000
    since, until = "2026-11-18T11:06:41Z", str(bench.clock.ms - 1000)
    jobs = bench.get(f"/jobs?since={since}&until={until}").json["jobs"]
    assert [job["id"] for job in jobs] == [ids[1]]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=waiting", "state"),
        ("outcome=retry", "outcome"),
        ("outcome=ok&state=ready", "outcome"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A1", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("since=yesterday", "since"),
        ("until=2026-13-01T00:00:00Z", "until"),
        ("before=x", "before"),
        ("limit=1&limit=1", "limit"),
        ("days=1", "days"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused_by_name(bench: Bench, query: str, parameter: str):
    reply = bench.get(f"/jobs?{query}")
    assert (reply.status, reply.slug) == (400, "bad-parameter")
    assert reply.json["parameter"] == parameter


def test_an_unknown_parameter_is_answered_with_those_there_are(bench: Bench):
    assert "client, jobtype, state" in bench.get("/jobs?days=1").json["detail"]
    assert bench.get(f"/jobs/{UNKNOWN}?verbose=1").slug == "bad-parameter"


@pytest.mark.parametrize("query", ["client=../etc", "jobtype=a%00b", "client="])
def test_a_malformed_name_is_refused_everywhere(bench: Bench, query: str):
    assert bench.get(f"/jobs?{query}").slug == "bad-name"
    assert bench.get(f"/types?{query}").slug == "bad-name"
    assert bench.get(f"/handlers?{query}").slug == "bad-name"


def test_a_job_is_shown_in_full_with_its_runs(bench: Bench):
    id_ = bench.add_one("acme/mail", b"\xc3\xa9\n#J: \x00", parent=UNKNOWN)
    jobs = bench.claim("acme/mail")
    bench.clock.ms += 5
    bench.finish("acme/mail", jobs, Result(422, b"no such address", "refused"), b"log")
    view = bench.get(f"/jobs/{id_}").json
    assert view["data"] == "é\n#J: \0"
    assert (view["state"], view["status"], view["outcome"]) == ("done", 422, "failed")
    assert (view["result"], view["error"], view["parent"]) == (
        "no such address",
        "refused",
        UNKNOWN,
    )
    assert view["finished_at"] == "2026-11-18T11:06:40.005Z"
    assert view["runs"] == [
        {
            "attempt": 1,
            "status": 422,
            "outcome": "failed",
            "node": SYSID,
            "started_at": "2026-11-18T11:06:40.000Z",
            "ended_at": "2026-11-18T11:06:40.005Z",
            "result": "no such address",
            "error": "refused",
            "output": "log",
        }
    ]


def test_data_and_result_that_are_not_utf8_are_base64(bench: Bench):
    id_ = bench.add_one("main/mail", b"\xff\x00")
    bench.finish("main/mail", bench.claim("main/mail"), Result(200, b"\xfe"))
    view = bench.get(f"/jobs/{id_}").json
    assert (view["data_base64"], view["result_base64"]) == ("/wA=", "/g==")
    assert "data" not in view
    assert "result" not in view


def test_every_state_is_told_by_the_clock_of_the_store(bench: Bench):
    id_ = bench.add_one("main/mail", delay_ms=1000)

    def view() -> dict[str, str]:
        job: dict[str, str] = bench.get(f"/jobs/{id_}").json
        return job

    assert (view()["state"], view()["next_at"]) == ("deferred", "2026-11-18T11:06:41.000Z")
    bench.clock.ms += 1000
    assert view()["state"] == "ready"
    jobs = bench.claim("main/mail")
    assert (view()["state"], view()["node"]) == ("running", SYSID)
    bench.clock.ms += LEASE_MS
    assert (view()["state"], view()["node"]) == ("abandoned", SYSID)
    bench.finish("main/mail", jobs)
    assert (view()["state"], view()["outcome"]) == ("done", "ok")


def test_a_job_is_known_before_it_is_in_the_store_and_while_the_store_is_down(bench: Bench):
    id_ = bench.minter.block(1, bench.clock.ms).first
    bench.node.headers[id_] = Header(
        kind="lines", id=id_, count=1, at=bench.clock.ms, type="acme/mail", dt=bench.clock.ms + 5
    )
    bench.node.down = StoreUnavailable("locked")
    assert bench.get(f"/jobs/{id_}").json == {
        "id": id_,
        "type": "acme/mail",
        "client": "acme",
        "jobtype": "mail",
        "state": "accepted",
        "accepted_at": "2026-11-18T11:06:40.000Z",
        "due_at": "2026-11-18T11:06:40.005Z",
    }


def test_a_job_that_is_not_in_the_store_tells_no_due_time_that_only_its_line_knows(
    bench: Bench,
):
    id_ = bench.minter.block(2, bench.clock.ms).first
    bench.node.headers[id_] = Header(kind="jobs", id=id_, count=2, at=bench.clock.ms)
    assert bench.get(f"/jobs/{id_}").json == {
        "id": id_,
        "state": "accepted",
        "accepted_at": "2026-11-18T11:06:40.000Z",
    }


def test_an_unknown_job_is_not_found_and_a_malformed_id_is_refused(bench: Bench):
    assert (bench.get(f"/jobs/{UNKNOWN}").status, bench.get(f"/jobs/{UNKNOWN}").slug) == (
        404,
        "not-found",
    )
    assert (bench.get("/jobs/x").status, bench.get("/jobs/x").slug) == (400, "bad-id")


def test_a_job_that_another_node_has_just_accepted_is_found_when_it_reaches_the_store(
    bench: Bench,
):
    id_ = Minter("otherN0d").block(1, bench.clock.ms).first
    new = NewJobs("acme/mail", bench.clock.ms, [id_], [b"x"], id_, 1)
    asked: list[None] = []

    def ingest_at_the_third_question() -> None:
        asked.append(None)
        if len(asked) == 3:
            cursor = bench.store.cursor("j")
            bench.store.ingest("j", cursor, cursor._replace(offset=1), [new])

    bench.node.before_ask = ingest_at_the_third_question
    assert bench.get(f"/jobs/{id_}").json["state"] == "ready"
    assert len(asked) == 3


def test_a_fresh_id_of_another_node_that_never_comes_is_not_found(bench: Bench):
    bench.remake(Waits(ingest_s=0.05))
    id_ = Minter("otherN0d").block(1, bench.clock.ms).first
    assert bench.get(f"/jobs/{id_}").status == 404
    assert bench.post(f"/jobs/{id_}/cancel").status == 404
    assert 2 < bench.node.asked < 12


def test_a_fresh_id_of_this_node_is_told_at_once(bench: Bench):
    id_ = Minter(SYSID).block(1, bench.clock.ms).first
    assert bench.get(f"/jobs/{id_}").status == 404
    assert bench.node.asked == 1


def test_a_store_that_is_down_is_answered_503_with_retry_after(bench: Bench):
    bench.node.down = StoreUnavailable("locked")
    for reply in (
        bench.get(f"/jobs/{UNKNOWN}"),
        bench.get("/jobs"),
        bench.get("/types"),
        bench.get("/handlers"),
        bench.post(f"/jobs/{UNKNOWN}/cancel"),
        bench.post("/jobs/cancel?all=true"),
        bench.handler("mail"),
        bench.post("/types/mail/pause"),
        bench.post("/types/mail/purge"),
    ):
        assert (reply.status, reply.slug) == (503, "store-unavailable")
        assert reply.headers["retry-after"] == "1"


# Waiting.


async def _after(bench: Bench, waiting: asyncio.Task[Reply], asked: int) -> None:
    """Let the loop run until a caller that waits has asked the store `asked` times."""
    while bench.node.asked < asked:
        assert not waiting.done()
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_who_waits_is_answered_as_soon_as_this_node_moved_the_job_to_done(bench: Bench):
    id_ = bench.add_one("main/mail")

    async def scene() -> Reply:
        waiting = asyncio.create_task(bench.call("GET", f"/jobs/{id_}?wait=60"))
        await _after(bench, waiting, 1)
        jobs = bench.claim("main/mail")
        bench.node.moved()  # moved, but not done: the caller goes on waiting
        await _after(bench, waiting, 2)
        bench.finish("main/mail", jobs)
        bench.node.moved()
        return await asyncio.wait_for(waiting, 0.9)  # before any asking again

    assert bench.run(scene()).json["outcome"] == "ok"
    assert all(future.done() for future in bench.node.watched), "no watch is left behind"


def test_who_waits_for_a_done_job_is_answered_at_once(bench: Bench):
    assert bench.get(f"/jobs/{bench.done('main/mail')}?wait=60").json["state"] == "done"
    assert bench.node.asked == 1


def test_a_job_that_another_node_finished_is_seen_by_asking_again(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.remake(Waits(reask_s=0.01))

    async def scene() -> Reply:
        waiting = asyncio.create_task(bench.call("GET", f"/jobs/{id_}?wait=60"))
        await _after(bench, waiting, 1)
        bench.finish("main/mail", bench.claim("main/mail"))
        return await asyncio.wait_for(waiting, 5)

    assert bench.run(scene()).json["state"] == "done"


def test_who_waited_long_enough_is_answered_with_the_job_as_it_is(bench: Bench):
    id_ = bench.add_one("main/mail", delay_ms=10_000)
    reply = bench.get(f"/jobs/{id_}?wait=1")
    assert (reply.status, reply.json["state"]) == (200, "deferred")


def test_who_waits_for_an_unknown_job_is_told_at_once(bench: Bench):
    assert bench.get(f"/jobs/{UNKNOWN}?wait=60").slug == "not-found"


def test_who_waits_is_answered_when_the_node_quits(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.node.quitting = True
    assert bench.get(f"/jobs/{id_}?wait=60").json["state"] == "ready"


def test_who_waits_and_leaves_is_forgotten(bench: Bench):
    id_ = bench.add_one("main/mail")
    routes_gone = asyncio.Event()

    async def scene() -> None:
        calling = asyncio.create_task(bench.call("GET", f"/jobs/{id_}?wait=60", gone=routes_gone))
        await _after(bench, calling, 1)
        routes_gone.set()
        await asyncio.wait_for(calling, 0.9)

    bench.run(scene())


def test_too_many_who_wait_are_refused_and_the_others_go_on(bench: Bench):
    id_ = bench.add_one("main/mail")
    bench.remake(Waits(waiters_max=1))

    async def scene() -> tuple[Reply, Reply, Reply]:
        first = asyncio.create_task(bench.call("GET", f"/jobs/{id_}?wait=60"))
        await _after(bench, first, 1)
        second = await bench.call("GET", f"/jobs/{id_}?wait=60")
        bench.finish("main/mail", bench.claim("main/mail"))
        bench.node.moved()
        answered = await first
        return answered, second, await bench.call("GET", f"/jobs/{id_}?wait=60")

    first, second, third = bench.run(scene())
    assert (first.status, second.status, third.status) == (200, 503, 200)
    assert second.headers["retry-after"] == "1"


@pytest.mark.parametrize("wait", ["-1", str(WAIT_MAX_S + 1), "1.5", "30s"])
def test_the_time_to_wait_is_bounded(bench: Bench, wait: str):
    assert bench.get(f"/jobs/{UNKNOWN}?wait={wait}").slug == "bad-parameter"


def test_the_asking_again_of_many_who_wait_is_spread_out(bench: Bench):
    routes = JobRoutes(bench.node, Waits())
    assert routes.reask_after_s(1) == 1.0
    assert routes.reask_after_s(10_000) == 10.0
