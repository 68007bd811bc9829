"""Every store: what may be asked is answered exactly."""

from __future__ import annotations

import pytest
from store_kit import NODE, OTHER, START_MS, TYPE, Yard, node

from slimq.core.handler import Options
from slimq.core.jobid import TIME_MAX, Minter
from slimq.core.limits import LEASE_MS
from slimq.store.base import JobFilter, Load, TypeView


@pytest.fixture
def full(yard: Yard) -> tuple[Yard, dict[str, list[str]]]:
    """A store with jobs in every state and of every outcome, of two clients."""
    ids: dict[str, list[str]] = {}
    for status, name in ((200, "ok"), (400, "failed"), (599, "error")):
        ids[name] = yard.add(count=2)
        jobs = yard.claim()
        yard.finish(jobs, status, text=name.encode(), options=Options(max_failures=1))
    ids["abandoned"] = yard.add(count=2)
    yard.claim()
    yard.clock.advance(LEASE_MS)
    ids["running"] = yard.add(count=2)
    yard.claim(lock=OTHER)
    ids["ready"] = yard.add(count=2)
    ids["deferred"] = yard.add(count=2, dt=yard.now + 1)
    ids["sms"] = yard.add("acme/sms", count=2)
    ids["other"] = yard.add("acme2/mail", count=2)
    return yard, ids


def _newest_first(*groups: list[str]) -> list[str]:
    return sorted((id_ for group in groups for id_ in group), reverse=True)


def test_a_store_says_what_it_is_and_that_it_can_be_used(yard: Yard):
    yard.store.check()
    facts = yard.store.facts()
    assert facts.kind in ("memory", "sqlite", "postgresql")
    assert facts.version[0].isdigit()


def test_an_unknown_job_or_type_is_none(yard: Yard):
    yard.add()
    assert yard.store.job(Minter(OTHER).block(1, START_MS).first) is None
    assert yard.store.type("no/such") is None


def test_jobs_are_found_by_state(full: tuple[Yard, dict[str, list[str]]]):
    yard, ids = full
    assert yard.all_ids(state="deferred") == _newest_first(ids["deferred"])
    ready = _newest_first(ids["ready"], ids["sms"], ids["other"])
    assert yard.all_ids(state="ready") == ready
    assert yard.all_ids(state="running") == _newest_first(ids["running"])
    assert yard.all_ids(state="abandoned") == _newest_first(ids["abandoned"])
    done = _newest_first(ids["ok"], ids["failed"], ids["error"])
    assert yard.all_ids(state="done") == done


def test_jobs_are_found_by_outcome(full: tuple[Yard, dict[str, list[str]]]):
    yard, ids = full
    for outcome in ("ok", "failed", "error"):
        assert yard.all_ids(outcome=outcome) == _newest_first(ids[outcome])
        assert yard.all_ids(outcome=outcome, state="done", client="acme") == ids[outcome][::-1]
        assert yard.all_ids(outcome=outcome, state="ready") == []


def test_jobs_are_found_by_client_and_jobtype(full: tuple[Yard, dict[str, list[str]]]):
    yard, ids = full
    everything = _newest_first(*ids.values())
    assert yard.all_ids() == everything
    assert yard.all_ids(client="acme2") == ids["other"][::-1]
    assert yard.all_ids(client="acme", jobtype="sms") == ids["sms"][::-1]
    assert yard.all_ids(jobtype="mail") == [i for i in everything if i not in ids["sms"]]
    assert yard.all_ids(client="acm") == yard.all_ids(jobtype="mai") == []
    assert yard.all_ids(client="acme", state="ready") == _newest_first(ids["ready"], ids["sms"])


def test_jobs_are_found_by_the_time_of_their_ids(yard: Yard):
    ids = []
    for _ in range(4):
        ids += yard.add(count=2)
        yard.clock.advance(10)
    assert yard.all_ids(since=START_MS + 10, until=START_MS + 30) == ids[5:1:-1]
    assert yard.all_ids(since=START_MS + 30) == ids[:5:-1]
    assert yard.all_ids(until=START_MS) == yard.all_ids(until=-5) == []
    assert yard.all_ids(since=TIME_MAX + 1) == []
    assert yard.all_ids(since=-1, until=TIME_MAX + 1) == ids[::-1]


def test_a_list_goes_on_below_an_id(yard: Yard):
    ids = yard.add(count=10)[::-1]
    pages = []
    before = ""
    while page := yard.store.jobs(JobFilter(client="acme"), before=before, limit=3):
        pages += [view.id for view in page]
        before = page[-1].id
    assert pages == ids


def test_a_list_is_light_and_a_job_is_whole(full: tuple[Yard, dict[str, list[str]]]):
    yard, _ = full
    light = yard.store.jobs(JobFilter(outcome="failed"), before="", limit=1)[0]
    whole = yard.store.job(light.id)
    assert whole is not None
    assert (light.data, light.runs) == (None, [])
    assert (whole.data, len(whole.runs)) == (b"data", 1)
    whole.data, whole.runs = None, []
    assert light == whole
    assert light.result == b"failed"


def test_types_are_listed_in_type_order_with_exact_counts(full: tuple[Yard, dict[str, list[str]]]):
    yard, _ = full
    acme = TypeView(
        type=TYPE, waiting=4, running=4, ok=2, failed=2, error=2, next_at=START_MS + LEASE_MS
    )
    types = yard.store.types(client=None, jobtype=None, after="", limit=10)
    assert [view.type for view in types] == [TYPE, "acme/sms", "acme2/mail"]
    assert types[0] == yard.store.type(TYPE) == acme

    def names(
        client: str | None, jobtype: str | None, after: str = "", limit: int = 9
    ) -> list[str]:
        page = yard.store.types(client=client, jobtype=jobtype, after=after, limit=limit)
        return [view.type for view in page]

    assert names("acme", None) == [TYPE, "acme/sms"]
    assert names(None, "mail") == [TYPE, "acme2/mail"]
    assert names("acme", "sms") == ["acme/sms"]
    assert names(None, None, after=TYPE, limit=1) == ["acme/sms"]
    assert names("acme", None, after="acme/sms") == names("x", None) == []


def test_a_type_that_had_jobs_is_listed_after_they_are_gone(yard: Yard):
    yard.add()
    yard.run(200)
    yard.purge(ok_before=START_MS + 1)
    assert yard.counts() == (0, 0, 0, 0, 0)


def test_totals_count_over_all_types(full: tuple[Yard, dict[str, list[str]]]):
    yard, _ = full
    totals = yard.store.totals()
    assert (totals.waiting, totals.running) == (8, 4)
    assert (totals.ok, totals.failed, totals.error) == (2, 2, 2)
    assert (totals.purged, totals.types) == (0, 3)
    assert totals.bytes > 0


def test_a_sysid_is_reserved_while_its_node_lives(yard: Yard):
    assert yard.store.register(node(NODE, version="1"))
    assert not yard.other.register(node(NODE, version="2"))
    yard.clock.advance(LEASE_MS - 1)
    assert not yard.other.register(node(NODE, version="2"))
    yard.clock.advance(1)
    assert yard.other.register(node(NODE, version="3"))
    assert yard.store.nodes()[0].about == {"version": "3"}


def test_a_node_that_left_frees_its_sysid(yard: Yard):
    yard.store.register(node(NODE))
    yard.store.leave(NODE)
    assert yard.store.nodes() == []
    assert yard.other.register(node(NODE))


def test_nodes_say_when_they_were_seen_by_the_clock_of_the_store(yard: Yard):
    yard.store.register(node("nodeB"))
    yard.clock.advance(700)
    yard.store.beat(node("nodeA", lag=5))
    yard.store.beat(node("nodeB", lag=7))
    found = [(n.sysid, n.seen_at, n.about) for n in yard.other.nodes()]
    assert found == [("nodeA", START_MS + 700, {"lag": 5}), ("nodeB", START_MS + 700, {"lag": 7})]


def test_time_does_not_go_back_when_the_wall_clock_does(yard: Yard):
    yard.store.register(node(NODE))
    before = yard.store.now()
    yard.clock.wall -= 3_600_000
    yard.clock.boot += 5
    assert yard.store.now() == before + 5
    assert yard.other.now() == before + 5


def test_a_barrier_can_be_made(yard: Yard):
    yard.add(count=10)
    assert yard.store.barrier() is True


def test_the_load_of_a_type_is_what_is_due_and_not_running_up_to_a_bound(
    full: tuple[Yard, dict[str, list[str]]],
):
    yard, _ = full
    assert yard.store.load(TYPE, 10) == Load(2, yard.now)
    yard.clock.advance(1)
    assert yard.store.load(TYPE, 10) == Load(4, yard.now - 1)
    assert yard.store.load(TYPE, 3) == Load(3, yard.now - 1)
    yard.run(limit=3)
    assert yard.store.load(TYPE, 10) == Load(1, yard.now)
    yard.run()
    assert yard.store.load(TYPE, 10) == Load(0, None)


def test_a_type_that_never_had_a_job_has_no_load(yard: Yard):
    yard.add()
    assert yard.store.load("acme/nothing", 10) == Load(0, None)
