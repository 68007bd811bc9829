"""Finish: outcomes become moves, and children are durable before their parent's end."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import pytest
from engine_kit import DAY_MS, OTHER, START_MS, TYPE, Rig, child, handler, ids_of

from slimq.core import status as statuses
from slimq.core.job import Ran, Result
from slimq.core.jobid import child_id
from slimq.core.lifecycle import DONE, FREE, State, finished_at, state_of
from slimq.core.limits import CRASHES_MAX, LEASE_MS
from slimq.errors import StoreUnavailable
from slimq.finish import Finisher
from slimq.runner.flight import Flight
from slimq.store.base import JobView

OPTIONS = {"batch_size": 10, "backoff": {"min": "1s", "max": "60s"}, "max_failures": 2}


def state(rig: Rig, job: JobView) -> State:
    return state_of(job.dt, job.lock, rig.memory.now())


def end(flight: Flight, *results: Result, **fields: object) -> Flight:
    flight.ran = Ran(list(results), **fields)  # type: ignore[arg-type]
    return flight


@pytest.mark.parametrize("status", [200, 204, 299, 400, 404, 498])
def test_ok_and_failed_are_done_now(rig: Rig, status: int) -> None:
    (flight,) = rig.launch(b"data", **OPTIONS)
    rig.clock.advance(700)
    rig.finish([end(flight, Result(status, b"said", "why"))])
    job = rig.job(*ids_of(flight))
    assert (job.status, job.lock, finished_at(job.dt)) == (status, DONE, START_MS + 700)
    assert (job.result, job.error, job.failures) == (b"said", "why", 0)


def test_retry_waits_as_long_as_asked_and_half_as_long_again_and_costs_no_failure(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"data", **OPTIONS)
    summary = rig.finish([end(flight, Result(102, retry_after_ms=5000))])
    job = rig.job(*ids_of(flight))
    assert (job.lock, job.dt, job.failures) == (FREE, START_MS + 7500, 0)
    assert summary.heads == {TYPE: START_MS + 7500}
    assert summary.outcomes == {"retry": 1}


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        (0, 1500),  # never less than the least backoff
        (60_000, 90_000),
        (3_600_000, 3_600_000 + 300_000),  # what is by chance is at most the longest backoff
        (10 * DAY_MS, DAY_MS + 300_000),
    ],
)
def test_what_a_wait_is_longer_than_asked_is_bounded(rig: Rig, asked: int, waits: int) -> None:
    (flight,) = rig.launch(b"data", max_age="30d")
    summary = rig.finish([end(flight, Result(102, retry_after_ms=asked))])
    assert summary.heads == {TYPE: START_MS + waits}


def test_error_counts_a_failure_and_waits_by_backoff_until_it_is_once_too_often(rig: Rig) -> None:
    (flight,) = rig.launch(b"data", **OPTIONS)
    (id_,) = ids_of(flight)
    rig.land(flight, 500)
    rig.step()
    job = rig.job(id_)
    assert (state(rig, job), job.failures) == (State.DEFERRED, 1)
    rig.clock.advance(job.dt - START_MS)
    rig.step()
    (again,) = rig.air
    assert again.batch.jobs[0].attempt == 2
    rig.land(again, 500)
    rig.step()
    job = rig.job(id_)
    assert (state(rig, job), job.failures, job.status) == (State.DONE, 2, 500)


def test_jobs_that_fail_together_come_back_spread_over_time(rig: Rig) -> None:
    flights = rig.launch(*[b"x"] * 1000, batch_size=1000, backoff={"min": "60s", "max": "60s"})
    rolls = Random(1)
    chance = SimpleNamespace(uniform=rolls.random)
    finisher = Finisher(rig.store, rig.sysid, chance, rig.add_children)  # type: ignore[arg-type]
    ended = [end(flight, *[Result(500)] * 1000) for flight in flights]
    finisher.finish(ended, rig.memory.now())
    again = [rig.job(id_).dt - START_MS for flight in flights for id_ in ids_of(flight)]
    in_one_second = Counter(at // 1000 for at in again)
    assert max(in_one_second.values()) <= len(again) * 3 // 100
    assert max(again) < 60_000


def test_a_crash_counts_apart_from_failures(rig: Rig) -> None:
    (flight,) = rig.launch(b"data", **OPTIONS)
    (id_,) = ids_of(flight)
    for crashes in range(1, CRASHES_MAX + 1):
        (flight,) = rig.air
        rig.land(flight, Result(statuses.CRASHED, crashed=True))
        rig.step()
        job = rig.job(id_)
        assert (job.crashes, job.failures) == (crashes, 0)
        rig.clock.advance(max(0, min(job.dt - rig.memory.now(), 100_000)))
        rig.step()
    assert (state(rig, job), job.status) == (State.DONE, statuses.CRASHED)


def test_retry_beyond_max_age_expires(rig: Rig) -> None:
    (flight,) = rig.launch(b"data", max_age="10s", batch_size=1)
    rig.finish([end(flight, Result(102, retry_after_ms=11_000))])
    job = rig.job(*ids_of(flight))
    assert (state(rig, job), job.status) == (State.DONE, statuses.EXPIRED)


def test_jobs_of_one_batch_go_their_own_ways(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", b"c", b"d", **OPTIONS)
    results = [Result(200), Result(400), Result(102, retry_after_ms=9000), Result(500)]
    summary = rig.finish([end(flight, *results, output=b"tail")])
    assert summary.outcomes == {"ok": 1, "failed": 1, "retry": 1, "error": 1}
    assert rig.counts() == (2, 0, 1, 1, 0)
    assert all(rig.job(id_).runs[-1].output == b"tail" for id_ in ids_of(flight))


def test_the_head_of_a_type_is_its_earliest_job_that_runs_again(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", b"c", **OPTIONS)
    waits = [Result(102, retry_after_ms=ms) for ms in (9000, 4000, 7000)]
    assert rig.finish([end(flight, *waits)]).heads == {TYPE: START_MS + 6000}


def test_a_retried_job_runs_when_its_time_comes_without_a_scan(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    rig.land(flight, Result(102, retry_after_ms=2500))
    rig.step()
    assert rig.scheduler.next_at() == START_MS + 3750
    rig.clock.advance(3750)
    rig.store.fail("due")
    assert not rig.try_step()
    rig.store.forget_calls()
    rig.step()
    assert rig.events.index("claim") > 0
    assert len(rig.air) == 1


def test_an_ordered_job_that_runs_again_keeps_its_place_and_holds_its_type(rig: Rig) -> None:
    (flight,) = rig.launch(b"first", b"second", ordered=True)
    assert [job.data for job in flight.batch.jobs] == [b"first"]
    rig.land(flight, Result(102, retry_after_ms=3000))
    rig.step()
    assert rig.job(ids_of(flight)[0]).dt == START_MS
    assert rig.air == []
    assert rig.scheduler.next_at() == START_MS + 4500
    rig.clock.advance(4500)
    rig.step()
    assert [job.data for job in rig.air[0].batch.jobs] == [b"first"]


def test_the_head_of_an_ordered_type_is_when_its_hold_is_over(rig: Rig) -> None:
    (flight,) = rig.launch(b"first", ordered=True)
    summary = rig.finish([end(flight, Result(102, retry_after_ms=3000))])
    assert summary.heads == {TYPE: START_MS + 4500}


def test_a_result_whose_lease_is_lost_changes_nothing_and_is_told(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    first, second = ids_of(flight)
    rig.memory.cancel([first])
    summary = rig.finish([end(flight, Result(200), Result(200))])
    assert summary.stale == {first}
    assert summary.outcomes == {"ok": 1}
    assert (rig.job(first).status, rig.job(second).status) == (statuses.CANCELLED, 200)


def test_a_stale_retry_gives_its_type_no_head(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    rig.memory.cancel(ids_of(flight))
    assert rig.finish([end(flight, Result(102))]).heads == {}


# Children.


def test_children_are_in_the_journal_before_the_store_learns_of_their_parents_end(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    end(flight, Result(200), Result(200), children=[[child("x", b"1")], [child("y", b"2")]])
    rig.store.forget_calls()
    summary = rig.finish([flight])
    assert rig.events == ["renew", "journal", "finish"]
    assert summary.children == 2
    rig.ingest_all()
    first, second = (rig.job(child_id(parent, 0)) for parent in ids_of(flight))
    assert (first.type, first.data, first.parent) == ("acme/x", b"1", ids_of(flight)[0])
    assert (second.type, second.data, second.parent) == ("acme/y", b"2", ids_of(flight)[1])


def test_the_lease_of_a_parent_is_fresh_when_its_children_are_journaled(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    rig.clock.advance(LEASE_MS - 1)
    rig.finish([end(flight, Result(200), children=[[child("x", b"1")]])])
    ((args, kwargs),) = rig.store.called("renew")[-1:]
    assert [lease.id for lease in args[1]] == ids_of(flight)
    assert kwargs == {"lease_ms": LEASE_MS}


def test_a_run_without_children_needs_no_journal(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    rig.store.forget_calls()
    rig.finish([end(flight, Result(200), Result(200), children=[[], []])])
    assert rig.events == ["finish"]


def test_a_parent_that_runs_again_adds_no_child_twice(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    (parent,) = ids_of(flight)
    children = [child("x", b"1"), child("x", b"2"), child("y", b"3")]
    rig.land(flight, Result(102, retry_after_ms=1000), children=[children])
    rig.step()
    rig.clock.advance(1500)
    rig.step()
    (again,) = rig.air
    assert again.batch.jobs[0].attempt == 2
    rig.land(again, 200, children=[[*children, child("y", b"4")]])
    rig.step()
    rig.ingest_all()
    assert [rig.job(child_id(parent, n)).data for n in range(4)] == [b"1", b"2", b"3", b"4"]
    assert rig.memory.totals().waiting == 4


def test_ids_of_children_depend_on_the_parent_and_their_place_alone(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    added = [[child("x", b"1"), child("y", b"2")], [child("x", b"1")]]
    end(flight, Result(200), Result(200), children=added)
    rig.finish([flight])
    rig.ingest_all()
    first, second = ids_of(flight)
    expected = [child_id(first, 0), child_id(first, 1), child_id(second, 0)]
    assert len(set(expected)) == 3
    assert [rig.job(id_).parent for id_ in expected] == [first, first, second]


def test_a_parent_that_lost_its_lease_adds_none(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    lost, held = ids_of(flight)
    rig.memory.cancel([lost])
    end(flight, Result(200), Result(200), children=[[child("x", b"1")], [child("x", b"2")]])
    assert rig.finish([flight]).children == 1
    rig.ingest_all()
    assert rig.memory.job(child_id(lost, 0)) is None
    assert rig.job(child_id(held, 0)).data == b"2"


def test_a_run_that_was_taken_over_journals_nothing(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    (id_,) = ids_of(flight)
    rig.clock.advance(LEASE_MS)
    assert rig.memory.free(10).again == 1
    end_of_journal = rig.writer.end
    assert rig.memory.claim(TYPE, OTHER, 1, lease_ms=LEASE_MS, bytes_max=9).jobs[0].id == id_
    summary = rig.finish([end(flight, Result(200), children=[[child("x", b"1")]])])
    assert (summary.children, summary.stale) == (0, {id_})
    assert rig.writer.end == end_of_journal


def test_when_the_journal_refuses_the_parents_run_again_and_the_others_are_done(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"a", b"b", **OPTIONS)
    parent, other = ids_of(flight)
    end(flight, Result(200), Result(200), children=[[child("x", b"1")], []])
    rig.refuse_children = True
    summary = rig.finish([flight])
    job = rig.job(parent)
    assert (job.status, job.error) == (statuses.RETRY_NO_JOURNAL, "planted in the journal")
    assert (state(rig, job), job.failures) == (State.DEFERRED, 0)
    assert rig.job(other).status == 200
    assert (summary.children, summary.heads) == (0, {TYPE: job.dt})
    rig.ingest_all()
    assert rig.memory.job(child_id(parent, 0)) is None


def test_children_that_were_refused_are_not_added_when_the_finish_is_tried_again(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    (parent,) = ids_of(flight)
    end(flight, Result(200), children=[[child("x", b"1")]])
    rig.refuse_children = True
    rig.store.fail("finish")
    with pytest.raises(StoreUnavailable):
        rig.finish([flight])
    rig.refuse_children = False
    rig.finish([flight])
    rig.ingest_all()
    assert rig.job(parent).status == statuses.RETRY_NO_JOURNAL
    assert rig.memory.job(child_id(parent, 0)) is None


def test_children_are_journaled_once_however_often_the_finish_is_tried(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    end(flight, Result(200), children=[[child("x", b"1")]])
    rig.store.fail("finish", times=3)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            rig.finish([flight])
    rig.finish([flight])
    assert rig.events.count("journal") == 2  # the parent's request, and the children


def test_a_store_that_fails_before_the_children_are_journaled_leaves_them_for_later(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    end(flight, Result(200), children=[[child("x", b"1")]])
    rig.store.fail("renew")
    with pytest.raises(StoreUnavailable):
        rig.finish([flight])
    assert rig.finish([flight]).children == 1


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80", "é\u2028".encode(), b'{"a":"\\"}', b""])
def test_the_data_of_children_comes_back_byte_for_byte(rig: Rig, data: bytes) -> None:
    (flight,) = rig.launch(b"a", **OPTIONS)
    rig.finish([end(flight, Result(200), children=[[child("x", data)]])])
    rig.ingest_all()
    assert rig.job(child_id(ids_of(flight)[0], 0)).data == data


def test_a_child_belongs_to_the_client_of_its_parent(rig: Rig) -> None:
    rig.memory.put_handler(handler("mail", client="*"))
    (flight,) = rig.launch(b"a", type="tenant/mail")
    rig.finish([end(flight, Result(200), children=[[child("mail", b"1")]])])
    rig.ingest_all()
    assert rig.job(child_id(ids_of(flight)[0], 0)).type == "tenant/mail"


def test_the_children_of_several_runs_are_told_together(rig: Rig) -> None:
    flights = rig.launch(b"a", b"b", b"c", batch_size=1)
    for flight in flights:
        end(flight, Result(200), children=[[child("x", b"1"), child("x", b"2")]])
    summary = rig.finish(flights)
    assert summary.children == 6
    ids = [child_id(id_, n) for flight in flights for id_ in ids_of(flight) for n in (0, 1)]
    rig.ingest_all()
    assert [rig.job(id_).id for id_ in ids] == ids
    assert all(first < second for first, second in pairwise(ids_of(f)[0] for f in flights))
