"""`/types…`: counts, policies, pause, resume, purge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from routes_kit import Bench

from slimq.api.types import POLICY_MEMBERS
from slimq.core.limits import BULK_JOBS_MAX, READY_MAX

UNSET = {"paused": None, "weight": None, "concurrency": None, "batch_size": None}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_a_type_is_shown_with_its_counts_its_oldest_wait_and_what_holds_for_it(bench: Bench):
    bench.done("acme/mail", 200)
    bench.done("acme/mail", 404)
    bench.done("acme/mail", 504)
    bench.add("acme/mail", b"1", b"2")
    bench.claim("acme/mail")
    bench.clock.ms += 1500
    bench.handler("mail", options={"batch_size": 7})
    bench.patch("/types/mail?client=acme", {"weight": 3})
    assert bench.get("/types").json == {
        "types": [
            {
                "type": "acme/mail",
                "client": "acme",
                "jobtype": "mail",
                "waiting": 1,
                "running": 1,
                "ok": 1,
                "failed": 1,
                "error": 1,
                "oldest_wait_ms": 1500,
                "next_at": "2026-11-18T11:06:40.000Z",
                "hold_until": None,
                "handler": {"client": "*", "version": 1, "lang": "exec"},
                "paused": False,
                "weight": 3,
                "concurrency": None,
                "batch_size": 7,
            }
        ],
        "next": None,
    }


def test_a_type_without_handler_says_so(bench: Bench):
    bench.add_one("main/mail", delay_ms=500)
    view = bench.get("/types/mail").json
    assert (view["handler"], view["batch_size"], view["oldest_wait_ms"]) == (None, None, 0)


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_follow_the_cursor_without_gaps_or_repeats(bench: Bench, limit: int):
    types = [f"{client}/{jobtype}" for client in ("a", "b", "c") for jobtype in ("x", "y")]
    for type_ in types:
        bench.add_one(type_)
    seen: list[str] = []
    target: str | None = f"/types?limit={limit}"
    while target:
        page = bench.get(target).json
        seen += [each["type"] for each in page["types"]]
        target = page["next"] and f"/types?limit={limit}&after={page['next']}"
    assert seen == types


def test_types_are_filtered_by_client_and_jobtype(bench: Bench):
    for type_ in ("a/x", "a/y", "b/x"):
        bench.add_one(type_)
    assert [t["type"] for t in bench.get("/types?client=a").json["types"]] == ["a/x", "a/y"]
    assert [t["type"] for t in bench.get("/types?jobtype=x").json["types"]] == ["a/x", "b/x"]
    assert bench.get("/types?after=../x").slug == "bad-parameter"


def test_one_type_is_that_of_client_main_unless_said_otherwise(bench: Bench):
    bench.add_one("main/mail")
    bench.add("acme/mail", b"1", b"2")
    assert bench.get("/types/mail").json["type"] == "main/mail"
    assert bench.get("/types/mail?client=acme").json["waiting"] == 2
    of_all = bench.get("/types/mail?client=*").json
    assert (of_all["type"], of_all["waiting"]) == ("*/mail", 3)


def test_a_type_that_never_had_a_job_is_known_by_its_handler_or_policy(bench: Bench):
    assert bench.get("/types/mail").slug == "not-found"
    assert bench.get("/types/mail?client=*").slug == "not-found"
    bench.handler("mail")
    assert bench.get("/types/mail").json["waiting"] == 0
    bench.patch("/types/sms?client=acme", {"paused": True})
    assert bench.get("/types/sms?client=acme").json["paused"] is True
    assert bench.get("/types/sms").slug == "not-found"


def test_a_change_of_a_policy_keeps_what_it_does_not_name_and_null_unsets(bench: Bench):
    first = bench.patch("/types/mail?client=acme", {"weight": 3, "batch_size": 5})
    assert first.json == {
        **UNSET,
        "client": "acme",
        "jobtype": "mail",
        "weight": 3,
        "batch_size": 5,
    }
    second = bench.patch("/types/mail?client=acme", {"concurrency": 2, "weight": None})
    assert second.json == {
        **UNSET,
        "client": "acme",
        "jobtype": "mail",
        "concurrency": 2,
        "batch_size": 5,
    }
    assert bench.node.woken == 2


def test_a_policy_without_client_holds_for_every_client_that_has_none_of_its_own(bench: Bench):
    bench.add_one("acme/mail")
    bench.add_one("zulu/mail")
    assert bench.patch("/types/mail", {"weight": 2, "concurrency": 4}).json["client"] == "*"
    bench.patch("/types/mail?client=acme", {"weight": 9})
    acme, zulu = bench.get("/types?jobtype=mail").json["types"]
    assert (acme["weight"], acme["concurrency"]) == (9, 4)
    assert (zulu["weight"], zulu["concurrency"]) == (2, 4)


def test_a_policy_goes_before_the_options_of_the_handler(bench: Bench):
    bench.add_one("main/mail")
    bench.handler("mail", options={"concurrency": 3, "batch_size": 7})
    assert bench.get("/types/mail").json["concurrency"] == 3
    bench.patch("/types/mail", {"concurrency": 5})
    view = bench.get("/types/mail").json
    assert (view["concurrency"], view["batch_size"]) == (5, 7)


def test_an_ordered_handler_takes_one_job_at_a_time_whatever_the_policy_says(bench: Bench):
    bench.add_one("main/mail")
    bench.handler("mail", options={"ordered": True})
    bench.patch("/types/mail", {"concurrency": 5, "batch_size": 5})
    view = bench.get("/types/mail").json
    assert (view["concurrency"], view["batch_size"]) == (1, 1)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"paused": 1}, "paused"),
        ({"paused": "yes"}, "paused"),
        ({"weight": 0}, "weight"),
        ({"weight": 1001}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"weight": True}, "weight"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1001}, "concurrency"),
        ({"batch_size": 10_001}, "batch_size"),
        ({"rate": "100/s"}, "rate"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_the_name_of_the_member(
    bench: Bench, document: dict[str, Any], field: str
):
    reply = bench.patch("/types/mail", {"paused": True, **document})
    assert (reply.status, reply.slug, reply.json["field"]) == (422, "bad-policy", field)
    assert bench.get("/types/mail").slug == "not-found"


def test_every_member_of_a_policy_can_be_set(bench: Bench):
    document = {"paused": True, "weight": 1000, "concurrency": 1000, "batch_size": 10_000}
    assert tuple(document) == POLICY_MEMBERS
    assert bench.patch("/types/mail", document).json == {
        "client": "*",
        "jobtype": "mail",
        **document,
    }
    assert bench.patch("/types/mail", UNSET).json == {"client": "*", "jobtype": "mail", **UNSET}


def test_a_policy_body_is_a_json_object(bench: Bench):
    assert bench.patch("/types/mail", [1]).slug == "bad-body"
    large = b" " * 20_000
    assert bench.run(bench.call("PATCH", "/types/mail", large)).slug == "body-too-large"


def test_a_type_is_paused_and_resumed(bench: Bench):
    bench.add_one("acme/mail")

    def is_paused() -> bool:
        return bool(bench.get("/types/mail?client=acme").json["paused"])

    assert bench.post("/types/mail/pause?client=acme").json["paused"] is True
    assert is_paused()
    assert bench.post("/types/mail/resume?client=acme").json["paused"] is None
    assert not is_paused()
    assert bench.node.woken == 2


def test_a_client_is_resumed_while_every_other_one_stays_paused(bench: Bench):
    bench.add_one("acme/mail")
    bench.add_one("zulu/mail")
    bench.post("/types/mail/pause")
    assert bench.post("/types/mail/resume?client=acme").json["paused"] is False
    acme, zulu = bench.get("/types?jobtype=mail").json["types"]
    assert (acme["paused"], zulu["paused"]) == (False, True)


def test_a_resumed_client_is_stopped_by_the_next_pause_of_all(bench: Bench):
    bench.add_one("acme/mail")
    bench.post("/types/mail/pause?client=acme")
    bench.post("/types/mail/resume?client=acme")
    bench.post("/types/mail/pause")
    assert bench.get("/types/mail?client=acme").json["paused"] is True


def test_a_purge_cancels_what_waits_of_one_type_and_nothing_else(bench: Bench):
    bench.done("acme/mail")
    bench.add("acme/mail", *[b"x"] * (BULK_JOBS_MAX + 2))
    bench.claim("acme/mail")
    bench.add_one("main/mail")
    bench.add_one("acme/sms")
    assert bench.post("/types/mail/purge?client=acme").json == {"count": BULK_JOBS_MAX + 1}
    view = bench.get("/types/mail?client=acme").json
    assert (view["waiting"], view["running"], view["ok"]) == (0, 1, 1)
    assert view["failed"] == BULK_JOBS_MAX + 1
    assert bench.get("/types/mail").json["waiting"] == 1
    assert bench.get("/types/sms?client=acme").json["waiting"] == 1


def test_a_purge_without_client_is_that_of_main_and_a_star_that_of_all(bench: Bench):
    bench.add_one("main/mail")
    bench.add_one("acme/mail")
    assert bench.post("/types/mail/purge").json == {"count": 1}
    bench.add_one("main/mail")
    assert bench.post("/types/mail/purge?client=*").json == {"count": 2}
    assert bench.post("/types/nothing/purge").json == {"count": 0}


@pytest.mark.parametrize("target", ["/types/-a/pause", "/types/a/purge?client=b%20c"])
def test_a_malformed_name_is_refused(bench: Bench, target: str):
    assert bench.post(target).slug == "bad-name"


def test_the_load_of_a_type_or_of_a_jobtype_of_all_clients_is_what_is_ready(bench: Bench):
    bench.add("acme/mail", b"1", b"2")
    bench.clock.ms += 1500
    bench.add("zulu/mail", b"3")
    bench.add_one("main/mail", delay_ms=500)
    assert bench.get("/types/mail/load?client=acme").json == {
        "type": "acme/mail",
        "client": "acme",
        "jobtype": "mail",
        "ready": 2,
        "oldest_wait_ms": 1500,
    }
    of_all = bench.get("/types/mail/load?client=*").json
    assert (of_all["type"], of_all["ready"], of_all["oldest_wait_ms"]) == ("*/mail", 3, 1500)
    assert bench.get("/types/mail/load").json["ready"] == 0


def test_the_load_of_a_type_that_never_had_a_job_is_nothing_and_no_error(bench: Bench):
    """A scaler that is set up before the first job must not fail."""
    for client in ("main", "*"):
        load = bench.get(f"/types/never/load?client={client}").json
        assert (load["ready"], load["oldest_wait_ms"]) == (0, 0)


def test_the_load_is_counted_up_to_a_bound(bench: Bench):
    for client in ("a", "b"):
        bench.add(f"{client}/mail", *[b"x"] * (READY_MAX // 2 + 10))
    assert bench.get("/types/mail/load?client=a").json["ready"] == READY_MAX // 2 + 10
    assert bench.get("/types/mail/load?client=*").json["ready"] == READY_MAX
