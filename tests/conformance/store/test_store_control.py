"""Every store: what people change by hand."""

from __future__ import annotations

import msgspec
import pytest
from store_kit import NODE, START_MS, TYPE, Yard, handler, ids_of, lease_of

from slimq.core.lifecycle import DONE, FREE
from slimq.store.base import Control, DueType, JobFilter, Policy


def test_a_waiting_job_is_cancelled_without_a_run(yard: Yard):
    ready, deferred = yard.add()[0], yard.add(dt=START_MS + 999)[0]
    yard.clock.advance(5)
    assert yard.store.cancel([ready, deferred, ready]) == [ready, deferred]
    for id_ in (ready, deferred):
        view = yard.store.job(id_)
        assert view is not None
        assert (view.lock, view.status, view.runs) == (DONE, 499, [])
    assert yard.counts() == (0, 0, 0, 2, 0)
    assert yard.claim() == []


def test_a_running_job_is_cancelled_and_its_finish_is_stale(yard: Yard):
    (id_,) = yard.add()
    jobs = yard.claim()
    assert yard.other.cancel([id_]) == [id_]
    assert yard.store.renew(jobs[0].id, [lease_of(jobs[0])], lease_ms=1) == {id_}
    assert yard.finish(jobs, 200, text=b"too late") == {id_}
    view = yard.store.job(id_)
    assert view is not None
    assert (view.status, view.result) == (499, b"")
    assert yard.counts() == (0, 0, 0, 1, 0)


def test_a_done_or_unknown_job_is_not_cancelled(yard: Yard):
    yard.add()
    (id_,) = yard.run(200)
    assert yard.store.cancel([id_, yard.block(1).first]) == []
    view = yard.store.job(id_)
    assert view is not None
    assert view.status == 200


@pytest.mark.parametrize("status", [200, 400, 499])
def test_a_done_job_runs_again_as_if_it_were_new(yard: Yard, status: int):
    (id_,) = yard.add()
    (job,) = yard.claim()
    yard.finish([job], status, text=b"first", output=b"tail")
    yard.clock.advance(100)
    assert yard.store.retry([id_]) == {TYPE: START_MS + 100}
    view = yard.store.job(id_)
    assert view is not None
    assert (view.lock, view.dt, view.due_at) == (FREE, START_MS + 100, START_MS + 100)
    assert (view.failures, view.crashes, view.attempt) == (0, 0, 1)
    assert [(run.status, run.ended_at, run.output) for run in view.runs] == [
        (status, START_MS, b"tail")
    ]
    assert yard.counts() == (1, 0, 0, 0, 0)
    assert yard.store.due(yard.now, "", 9) == [DueType(TYPE, START_MS + 100)]
    (again,) = yard.claim()
    assert again.attempt == 2
    assert yard.finish([job], 200) == {id_}
    yard.finish([again], 200, text=b"second")
    view = yard.store.job(id_)
    assert view is not None
    assert [run.result for run in view.runs] == [b"first", b"second"]


def test_a_cancelled_job_runs_again(yard: Yard):
    (id_,) = yard.add()
    yard.store.cancel([id_])
    assert yard.store.retry([id_]) == {TYPE: START_MS}
    assert ids_of(yard.claim()) == [id_]
    view = yard.store.job(id_)
    assert view is not None
    assert view.runs == []


def test_a_deferred_job_runs_now(yard: Yard):
    (id_,) = yard.add(dt=START_MS + 99_000)
    assert yard.store.retry([id_]) == {TYPE: START_MS}
    assert yard.store.due(START_MS, "", 9) == [DueType(TYPE, START_MS)]
    assert ids_of(yard.claim()) == [id_]


@pytest.mark.parametrize("how", ["release", "free"])
def test_a_deferred_job_that_was_told_to_run_now_is_not_deferred_again_when_it_is_given_back(
    yard: Yard, how: str
):
    (id_,) = yard.add(dt=START_MS + 99_000)
    yard.store.retry([id_])
    (job,) = yard.claim()
    if how == "release":
        yard.store.release(NODE, [lease_of(job)])
    else:
        yard.store.free(9, lock=NODE)
    assert ids_of(yard.claim()) == [id_]


def test_a_ready_running_or_unknown_job_is_not_retried(yard: Yard):
    ids = yard.add(count=2)
    yard.claim(limit=1)
    assert yard.store.retry([*ids, yard.block(1).first]) == {}
    assert yard.counts() == (1, 1, 0, 0, 0)


def test_cancel_by_filter_ends_all_that_it_fits_a_part_at_a_time(yard: Yard):
    yard.add(count=5)
    yard.add(count=3, dt=START_MS + 999)
    yard.add("acme/sms", count=4)
    yard.claim(limit=2)
    yard.run(200, limit=1)
    where = JobFilter(client="acme", jobtype="mail")
    counts = []
    while count := yard.store.change_where("cancel", where, 3):
        counts.append(count)
    assert counts == [3, 3, 1]
    assert yard.counts() == (0, 0, 1, 7, 0)
    assert yard.counts("acme/sms") == (4, 0, 0, 0, 0)
    assert yard.store.due(START_MS + 9999, "", 9) == [DueType("acme/sms", START_MS)]


def test_cancel_by_filter_heeds_state_and_time(yard: Yard):
    yard.add(count=2)
    yard.clock.advance(10)
    yard.add(count=2, dt=yard.now + 5)
    late = yard.add(count=2)
    assert yard.store.change_where("cancel", JobFilter(state="deferred"), 10) == 2
    assert yard.store.change_where("cancel", JobFilter(state="running"), 10) == 0
    assert yard.store.change_where("cancel", JobFilter(until=START_MS + 10), 10) == 2
    assert yard.store.change_where("cancel", JobFilter(outcome="failed"), 10) == 0
    assert yard.store.change_where("cancel", JobFilter(client="no"), 10) == 0
    assert yard.all_ids(state="ready") == late[::-1]


def test_retry_by_filter_runs_again_all_that_it_fits(yard: Yard):
    yard.add(count=4)
    yard.run(400, limit=3)
    yard.run(200)
    yard.add(count=2, dt=START_MS + 999)
    assert yard.store.change_where("retry", JobFilter(outcome="failed"), 2) == 2
    assert yard.store.change_where("retry", JobFilter(outcome="failed"), 2) == 1
    assert yard.store.change_where("retry", JobFilter(outcome="failed"), 2) == 0
    assert yard.counts() == (5, 0, 1, 0, 0)
    assert yard.store.change_where("retry", JobFilter(), 10) == 3
    assert yard.store.change_where("retry", JobFilter(), 10) == 0
    assert len(yard.claim()) == 6


def test_a_filter_can_leave_out_jobs_that_ended_since(yard: Yard):
    yard.add(count=2)
    yard.run(400, limit=1)
    asked_at = yard.now
    yard.clock.advance(1)
    yard.run(400, limit=1)
    yard.add(dt=START_MS + 999)
    where = JobFilter(done_at=asked_at)
    assert yard.store.change_where("retry", where, 10) == 2
    assert yard.store.change_where("retry", where, 10) == 0
    assert yard.counts() == (2, 0, 0, 1, 0)


def test_purging_a_type_cancels_its_waiting_jobs_alone(yard: Yard):
    yard.add(count=5)
    yard.add(dt=START_MS + 999)
    yard.add("acme/sms")
    yard.claim(limit=1)
    counts = [yard.store.purge_type(TYPE, 3) for _ in range(3)]
    assert counts == [3, 2, 0]
    assert yard.counts() == (0, 1, 0, 5, 0)
    assert yard.counts("acme/sms") == (1, 0, 0, 0, 0)
    assert yard.store.purge_type("no/such", 3) == 0


def test_a_handler_gets_the_next_version_and_is_current(yard: Yard):
    first = yard.store.put_handler(handler(timeout="5s"))
    yard.clock.advance(1)
    second = yard.store.put_handler(handler(timeout="1m", batch_size=7))
    assert (first.version, second.version) == (1, 2)
    assert (first.created_at, second.created_at) == (START_MS, START_MS + 1)
    assert second.written == {"timeout": "1m", "batch_size": 7}
    assert (second.options.timeout_ms, second.options.batch_size) == (60_000, 7)
    assert yard.other.control().handlers == [second]
    assert yard.other.versions("acme", "mail") == [second, first]
    assert yard.other.versions("acme", "no") == []


def test_handlers_of_clients_and_of_all_are_apart(yard: Yard):
    for client, jobtype in (("*", "mail"), ("acme", "sms"), ("acme", "mail")):
        yard.store.put_handler(handler(jobtype, client))
    found = [(one.client, one.jobtype) for one in yard.store.control().handlers]
    assert found == [("*", "mail"), ("acme", "mail"), ("acme", "sms")]


def test_an_address_is_kept_as_text_and_a_command_as_words(yard: Yard):
    http = msgspec.structs.replace(handler("hook"), lang="http", body="http://127.0.0.1/x?é=1")
    yard.store.put_handler(http)
    yard.store.put_handler(handler("mail"))
    bodies = [one.body for one in yard.store.control().handlers]
    assert bodies == ["http://127.0.0.1/x?é=1", ["cat", "-"]]


def test_rolling_back_makes_the_version_before_current_again(yard: Yard):
    versions = [yard.store.put_handler(handler(batch_size=size)) for size in (1, 2, 3)]
    assert yard.store.rollback_handler("acme", "mail", None) == versions[1]
    assert yard.store.control().handlers == [versions[1]]
    assert yard.store.rollback_handler("acme", "mail", None) == versions[0]
    assert yard.store.rollback_handler("acme", "mail", None) is None
    assert yard.store.rollback_handler("acme", "mail", 3) == versions[2]
    assert yard.store.rollback_handler("acme", "mail", 4) is None
    assert yard.store.rollback_handler("acme", "no", None) is None
    assert yard.store.rollback_handler("acme", "no", 1) is None
    assert yard.store.control().handlers == [versions[2]]
    assert yard.store.put_handler(handler()).version == 4


def test_a_deleted_handler_is_gone_with_its_versions_but_its_numbers_are_not_given_again(
    yard: Yard,
):
    yard.store.put_handler(handler())
    yard.store.put_handler(handler())
    assert yard.store.delete_handler("acme", "mail") is True
    assert yard.store.delete_handler("acme", "mail") is False
    assert yard.store.control().handlers == []
    assert yard.store.versions("acme", "mail") == []
    assert yard.store.rollback_handler("acme", "mail", 1) is None
    assert yard.store.put_handler(handler()).version == 3


def test_a_policy_replaces_the_one_before(yard: Yard):
    yard.store.put_policy(Policy(client="acme", jobtype="mail", paused=True, weight=3))
    yard.store.put_policy(Policy(client="*", jobtype="mail", concurrency=2, batch_size=9))
    assert yard.other.control().policies == [
        Policy(client="*", jobtype="mail", concurrency=2, batch_size=9),
        Policy(client="acme", jobtype="mail", paused=True, weight=3),
    ]
    yard.store.put_policy(Policy(client="acme", jobtype="mail", paused=False))
    assert yard.store.control().policies[1] == Policy(client="acme", jobtype="mail", paused=False)


def test_the_version_of_the_settings_changes_with_every_change_and_with_nothing_else(yard: Yard):
    seen = [yard.store.control_version()]

    def changed() -> bool:
        seen.append(yard.other.control_version())
        assert yard.store.control().version == seen[-1]
        return seen[-1] not in seen[:-1]

    yard.store.put_handler(handler())
    assert changed()
    yard.store.put_handler(handler())
    assert changed()
    yard.store.rollback_handler("acme", "mail", None)
    assert changed()
    yard.store.put_policy(Policy(client="acme", jobtype="mail"))
    assert changed()
    yard.store.delete_handler("acme", "mail")
    assert changed()
    yard.store.delete_handler("acme", "mail")
    yard.store.rollback_handler("acme", "mail", 1)
    yard.add()
    yard.run(200)
    assert not changed()


def test_an_empty_store_has_no_settings(yard: Yard):
    control = yard.store.control()
    assert control == Control(yard.store.control_version(), [], [])
