"""Every store: a job has at most one lease, and only its holder moves it."""

from __future__ import annotations

import pytest
from store_kit import NODE, OPTIONS, OTHER, START_MS, TYPE, Yard, ids_of, lease_of

from slimq.core.handler import Options
from slimq.core.job import Result
from slimq.core.lifecycle import DONE, FREE, Lease, Move, done_dt, settle_all
from slimq.core.limits import CRASHES_MAX, LEASE_MS, RUNS_MAX
from slimq.store.base import (
    ABANDONED_TEXT,
    ORDERED_POLL_MS,
    Claim,
    DueType,
    Finished,
    JobFilter,
    Run,
)

ORDERED = Options(ordered=True, backoff_min_ms=1000, backoff_max_ms=1000)


def test_due_names_types_with_waiting_jobs_in_type_order(yard: Yard):
    for type_, dt in (("b/x", 5), ("a/x", 9), ("c/x", 0), ("a/y", 50)):
        yard.add(type_, dt=START_MS + dt)
    yard.add("d/x")
    yard.claim("d/x")
    store, until = yard.store, START_MS + 9
    all_due = [
        DueType("a/x", START_MS + 9),
        DueType("b/x", START_MS + 5),
        DueType("c/x", START_MS),
    ]
    assert store.due(until, "", 10) == all_due
    assert store.due(until, "", 2) == all_due[:2]
    assert store.due(until, "a/x", 1) == all_due[1:2]
    assert store.due(until, "c/x", 10) == []


def test_due_pages_through_many_types(yard: Yard):
    names = sorted(f"c{n % 10}/t{n}" for n in range(300))
    yard.ingest(*(yard.new(name) for name in names))
    found: list[str] = []
    while page := yard.store.due(yard.now, found[-1] if found else "", 7):
        found += [due.type for due in page]
    assert found == names


def test_a_type_is_due_when_its_earliest_waiting_job_is(yard: Yard):
    early, late = yard.add(dt=START_MS + 100)[0], yard.add(dt=START_MS + 200)[0]
    assert yard.store.due(START_MS + 1000, "", 9) == [DueType(TYPE, START_MS + 100)]
    yard.store.cancel([early])
    assert yard.store.due(START_MS + 1000, "", 9) == [DueType(TYPE, START_MS + 200)]
    assert yard.store.due(START_MS + 199, "", 9) == []
    yard.store.cancel([late])
    assert yard.store.due(START_MS + 1000, "", 9) == []


def test_the_oldest_are_claimed_first_by_dt_then_by_order_of_ingest(yard: Yard):
    second = yard.add(count=3, dt=START_MS - 10)
    first = yard.add(count=2, dt=START_MS - 20)
    third = yard.add(count=2, dt=START_MS - 10)
    assert ids_of(yard.claim(limit=4)) == [*first, *second[:2]]
    assert ids_of(yard.claim(limit=4)) == [*second[2:], *third]


def test_a_claim_takes_no_more_than_its_limit(yard: Yard):
    yard.add(count=25)
    sizes = [len(yard.claim(limit=10, lock=lock)) for lock in (NODE, OTHER, NODE, OTHER)]
    assert sizes == [10, 10, 5, 0]
    assert yard.counts() == (0, 25, 0, 0, 0)


def test_a_claim_of_nothing_takes_nothing(yard: Yard):
    yard.add(count=2)
    assert yard.claim(limit=0) == []
    assert yard.ask("no/such") == Claim([], None)
    assert yard.counts() == (2, 0, 0, 0, 0)


def test_a_deferred_job_is_not_claimed_before_its_time(yard: Yard):
    ids = yard.add(dt=START_MS + 1000)
    assert yard.ask() == Claim([], START_MS + 1000)
    yard.clock.advance(999)
    assert yard.claim() == []
    yard.clock.advance(1)
    assert ids_of(yard.claim()) == ids


def test_a_claim_says_when_it_is_worth_asking_again(yard: Yard):
    yard.add(count=2, dt=START_MS - 5)
    yard.add(dt=START_MS + 700)
    assert yard.ask(limit=1).next_at == START_MS - 5
    assert yard.ask(limit=1).next_at == START_MS + 700
    yard.clock.advance(700)
    assert yard.ask().next_at is None


def test_a_claim_is_cut_at_its_bytes_but_takes_one(yard: Yard):
    data = [b"x" * 100, b"x" * 5000, b"x" * 100, b"x" * 100]
    yard.add(count=4, data=data)
    sizes = [[len(job.data) for job in yard.claim(bytes_max=300)] for _ in range(4)]
    assert sizes == [[100], [5000], [100, 100], []]


def test_a_claimed_job_tells_its_attempt_and_age(yard: Yard):
    yard.add(dt=START_MS - 7, trace="00-trace")
    (job,) = yard.claim()
    assert (job.attempt, job.failures, job.crashes, job.due_at) == (1, 0, 0, START_MS - 7)
    assert (job.data, job.trace) == (b"data", "00-trace")
    view = yard.store.job(job.id)
    assert view is not None
    assert (view.lock, view.dt, view.attempt) == (NODE, START_MS + LEASE_MS, 1)


def test_an_incomplete_batch_waits_for_its_window(yard: Yard):
    yard.add(count=3)
    yard.clock.advance(100)
    wants = {"full": 4, "window_ms": 500}
    assert yard.ask(**wants) == Claim([], START_MS + 500)
    yard.clock.advance(399)
    assert yard.claim(**wants) == []
    yard.clock.advance(1)
    assert len(yard.claim(**wants)) == 3


def test_a_complete_batch_does_not_wait(yard: Yard):
    yard.add(count=5)
    wants = {"full": 4, "window_ms": 500}
    assert len(yard.claim(limit=4, **wants)) == 4
    assert yard.ask(limit=4, **wants) == Claim([], START_MS + 500)


def test_a_batch_that_is_complete_by_its_bytes_does_not_wait(yard: Yard):
    yard.add(count=3, data=[b"x" * 100] * 3)
    assert len(yard.claim(bytes_max=250, full=10, window_ms=500)) == 2


def test_an_ordered_type_runs_one_job_at_a_time(yard: Yard):
    first, second = yard.add(count=2)
    jobs = yard.claim(ordered=True)
    assert ids_of(jobs) == [first]
    for lock in (NODE, OTHER):
        assert yard.ask(lock=lock, ordered=True) == Claim([], START_MS + ORDERED_POLL_MS)
    yard.finish(jobs)
    assert ids_of(yard.claim(ordered=True, lock=OTHER)) == [second]


def test_an_ordered_job_that_runs_again_keeps_its_place_and_its_type_waits(yard: Yard):
    first, second = yard.add(count=2)
    yard.finish(yard.claim(ordered=True), 500, options=ORDERED)
    held_until = START_MS + 500
    assert yard.ask(ordered=True) == Claim([], held_until)
    assert yard.store.due(held_until - 1, "", 9) == []
    assert yard.store.due(held_until, "", 9) == [DueType(TYPE, held_until)]
    view = yard.store.type(TYPE)
    assert view is not None
    assert view.hold_until == held_until
    yard.clock.advance(500)
    jobs = yard.claim(ordered=True)
    assert ids_of(jobs) == [first]
    yard.finish(jobs, options=ORDERED)
    assert ids_of(yard.claim(ordered=True)) == [second]


def test_an_ordered_type_goes_on_when_the_job_that_it_waits_for_is_cancelled(yard: Yard):
    first, second, third = yard.add(count=3)
    yard.finish(yard.claim(ordered=True), 500, options=ORDERED)
    yard.store.cancel([third])
    assert yard.ask(ordered=True).jobs == []
    yard.store.cancel([first])
    assert yard.store.due(yard.now, "", 9) == [DueType(TYPE, START_MS)]
    assert ids_of(yard.claim(ordered=True)) == [second]


def test_a_renewed_lease_lasts_longer_and_never_shorter(yard: Yard):
    (job,) = (yard.add(), yard.claim())[1]
    yard.clock.advance(20_000)
    assert yard.store.renew(NODE, [lease_of(job)], lease_ms=LEASE_MS) == set()
    view = yard.store.job(job.id)
    assert view is not None
    assert view.dt == START_MS + 20_000 + LEASE_MS
    yard.store.renew(NODE, [lease_of(job)], lease_ms=1)
    view = yard.store.job(job.id)
    assert view is not None
    assert view.dt == START_MS + 20_000 + LEASE_MS


def test_a_renewal_names_the_leases_that_are_lost(yard: Yard):
    yard.add(count=4)
    kept, done, cancelled, _ = jobs = yard.claim()
    yard.finish([done])
    yard.store.cancel([cancelled.id])
    leases = [*map(lease_of, jobs[:3]), Lease(jobs[3].id, 7), Lease(yard.block(1).first, 1)]
    lost = yard.store.renew(NODE, leases, lease_ms=LEASE_MS)
    assert lost == {lease.id for lease in leases} - {kept.id}
    assert yard.other.renew(OTHER, [lease_of(kept)], lease_ms=LEASE_MS) == {kept.id}


def test_an_expired_lease_that_nobody_took_can_be_renewed(yard: Yard):
    yard.add()
    (job,) = yard.claim()
    yard.clock.advance(LEASE_MS + 1)
    assert yard.store.renew(NODE, [lease_of(job)], lease_ms=LEASE_MS) == set()
    assert yard.store.free(10).again == 0


@pytest.mark.parametrize("status", [200, 299, 400, 499, 500, 599])
def test_a_finished_job_is_done_with_its_status_and_result(yard: Yard, status: int):
    yard.add(count=2)
    yard.clock.advance(50)
    options = Options(max_failures=1)
    (first, _) = yard.claim()
    yard.clock.advance(50)
    yard.finish([first], status, text=b"said \xff", error="why", options=options)
    view = yard.store.job(first.id)
    assert view is not None
    assert (view.lock, view.status, view.dt) == (DONE, status, done_dt(yard.now))
    assert (view.result, view.error) == (b"said \xff", "why")
    assert len(view.runs) == 1
    column = {2: 2, 4: 3, 5: 4}[status // 100]
    assert yard.counts()[column] == 1
    assert sum(yard.counts()) == 2


def test_the_output_of_a_batch_is_shown_with_each_of_its_runs(yard: Yard):
    ids = yard.add(count=2)
    yard.finish(yard.claim(), output=b"log of the batch")
    yard.add()
    for id_ in ids:
        view = yard.store.job(id_)
        assert view is not None
        assert [run.output for run in view.runs] == [b"log of the batch"]


@pytest.mark.parametrize("status", [102, 500])
def test_a_job_that_runs_again_waits_for_its_time_and_keeps_its_run(yard: Yard, status: int):
    (id_,) = yard.add()
    yard.finish(yard.claim(), status, text=b"not now", error="busy", output=b"tail")
    view = yard.store.job(id_)
    assert view is not None
    assert (view.lock, view.dt, view.status) == (FREE, START_MS + 500, status)
    assert view.failures == (status == 500)
    expected = Run(
        attempt=1,
        status=status,
        node=NODE,
        started_at=START_MS,
        ended_at=START_MS,
        result=b"not now",
        error="busy",
        output=b"tail",
    )
    assert view.runs == [expected]
    assert (view.result, view.error) == (b"not now", "busy")
    assert yard.store.jobs(JobFilter(), before="", limit=1)[0].error == "busy"
    assert yard.claim() == []
    yard.clock.advance(500)
    (job,) = yard.claim()
    assert (job.attempt, job.failures) == (2, int(status == 500))
    yard.finish([job], 200, text=b"done")
    view = yard.store.job(id_)
    assert view is not None
    assert [(run.attempt, run.status, run.result) for run in view.runs] == [
        (1, status, b"not now"),
        (2, 200, b"done"),
    ]
    assert yard.counts() == (0, 0, 1, 0, 0)


def test_a_batch_may_end_in_many_ways_at_once(yard: Yard):
    yard.add(count=5)
    jobs = yard.claim()
    statuses = [200, 400, 500, 102, 204]
    moves = [
        yard.moves([job], status, OPTIONS, text=str(status).encode())[0]
        for job, status in zip(jobs, statuses, strict=True)
    ]
    assert yard.store.finish(NODE, [Finished(TYPE, moves)]) == set()
    views = [yard.store.job(job.id) for job in jobs]
    assert [view.status for view in views if view] == statuses
    assert [view.result for view in views if view] == [str(s).encode() for s in statuses]
    assert yard.counts() == (2, 0, 2, 1, 0)


def test_jobs_that_end_alike_share_a_move_and_are_moved_one_by_one(yard: Yard):
    yard.add(count=100)
    jobs = yard.claim()
    results = [Result(400 if index % 7 == 0 else 200) for index in range(100)]
    moves = settle_all(jobs, results, OPTIONS, yard.now, float)
    assert sorted(len(move.ids) for move in moves) == [15, 85]
    assert yard.store.cancel([jobs[5].id, jobs[7].id]) == [jobs[5].id, jobs[7].id]
    stale = yard.store.finish(NODE, [Finished(TYPE, moves, b"tail")])
    assert stale == {jobs[5].id, jobs[7].id}
    views = [yard.store.job(job.id) for job in jobs]
    expected = [499 if index in (5, 7) else result.status for index, result in enumerate(results)]
    assert [view.status for view in views if view] == expected
    assert [view.runs[0].output for view in views if view and view.status != 499] == [b"tail"] * 98
    assert yard.counts() == (0, 0, 84, 16, 0)


def test_jobs_between_others_that_end_alike_are_not_moved(yard: Yard):
    ids = yard.add(count=60)
    jobs = yard.claim()
    some = [job for index, job in enumerate(jobs) if index % 3 != 1][:20]
    results = [Result(200)] * 20
    apart = settle_all(some, results, OPTIONS, yard.now, float)
    others = [*jobs[40:45], *jobs[46:60]]  # as many as there are from first to last, with a double
    doubled = settle_all([*others, jobs[40]], results, OPTIONS, yard.now, float)
    assert yard.store.finish(NODE, [Finished(TYPE, apart)]) == set()
    assert yard.store.finish(NODE, [Finished(TYPE, doubled)]) == {jobs[40].id}
    ended = {job.id for job in [*some, *others]}
    views = [yard.store.job(id_) for id_ in ids]
    assert {view.id for view in views if view and view.status == 200} == ended
    assert yard.counts() == (0, 21, 39, 0, 0)


def test_of_jobs_that_end_alike_each_shows_its_attempt(yard: Yard):
    yard.add(count=40)
    yard.finish(yard.claim(limit=20), 102)
    yard.clock.advance(60_000)
    jobs = yard.claim()
    moves = settle_all(jobs, [Result(200)] * 40, OPTIONS, yard.now, float)
    assert sorted((len(move.ids), move.attempt) for move in moves) == [(20, 1), (20, 2)]
    assert yard.store.finish(NODE, [Finished(TYPE, moves)]) == set()
    views = [yard.store.job(job.id) for job in jobs]
    assert [view.runs[-1].attempt for view in views if view] == [job.attempt for job in jobs]


def test_several_batches_of_several_types_end_at_once(yard: Yard):
    finished = []
    for type_ in ("a/x", "b/y", "c/z"):
        yard.add(type_, count=3)
        jobs = yard.claim(type_)
        finished.append(Finished(type_, yard.moves(jobs, 200, OPTIONS)))
    assert yard.store.finish(NODE, finished) == set()
    assert yard.store.totals().ok == 9


def test_a_stale_attempt_changes_nothing(yard: Yard):
    yard.add()
    (old,) = yard.claim()
    yard.clock.advance(LEASE_MS)
    yard.store.free(10)
    (again,) = yard.claim()
    assert again.attempt == 2
    assert yard.finish([old], 400) == {old.id}
    assert yard.store.release(NODE, [lease_of(old)]) == 0
    assert yard.store.renew(NODE, [lease_of(old)], lease_ms=LEASE_MS) == {old.id}
    assert yard.counts() == (0, 1, 0, 0, 0)
    assert yard.finish([again]) == set()
    assert yard.counts() == (0, 0, 1, 0, 0)


def test_stale_attempts_of_jobs_that_end_alike_change_nothing(yard: Yard):
    yard.add(count=20)
    old = yard.claim()
    yard.clock.advance(LEASE_MS)
    yard.store.free(20)
    assert {job.attempt for job in yard.claim()} == {2}
    moves = settle_all(old, [Result(400)] * 20, OPTIONS, yard.now, float)
    assert yard.store.finish(NODE, [Finished(TYPE, moves)]) == {job.id for job in old}
    assert yard.counts() == (0, 20, 0, 0, 0)


def test_a_stale_lock_changes_nothing(yard: Yard):
    yard.add()
    (job,) = yard.claim()
    assert yard.finish([job], 400, lock=OTHER) == {job.id}
    assert yard.other.release(OTHER, [lease_of(job)]) == 0
    assert yard.counts() == (0, 1, 0, 0, 0)


@pytest.mark.parametrize("lock", [FREE, DONE])
def test_no_one_holds_a_job_that_waits_or_is_done(yard: Yard, lock: str):
    yard.add(count=2)
    (job,) = yard.claim(limit=1)
    yard.finish([job])
    waiting = yard.all_ids(state="ready")[0]
    for lease in (lease_of(job), Lease(waiting, 0)):
        move = Move([lease.id], lease.attempt, done_dt(START_MS), DONE, 400, 0, 0)
        assert yard.store.finish(lock, [Finished(TYPE, [move])]) == {lease.id}
        assert yard.store.renew(lock, [lease], lease_ms=1) == {lease.id}
        assert yard.store.release(lock, [lease]) == 0
    assert yard.counts() == (1, 0, 1, 0, 0)


def test_a_done_job_is_not_finished_again(yard: Yard):
    yard.add()
    (job,) = yard.claim()
    yard.finish([job], 200, text=b"first")
    assert yard.finish([job], 400, text=b"second") == {job.id}
    view = yard.store.job(job.id)
    assert view is not None
    assert (view.status, view.result, len(view.runs)) == (200, b"first", 1)


def test_a_stale_move_does_not_hinder_the_others(yard: Yard):
    yard.add(count=6)
    jobs = yard.claim()
    yard.finish(jobs[:1], 200)
    yard.store.cancel([jobs[3].id])
    moves = yard.moves(jobs[:4], 200, OPTIONS) + yard.moves(jobs[4:], 500, OPTIONS)
    stale = yard.store.finish(NODE, [Finished(TYPE, moves, b"tail")])
    assert stale == {jobs[0].id, jobs[3].id}
    assert yard.counts() == (2, 0, 3, 1, 0)


def test_of_two_moves_of_one_job_the_one_that_holds_its_lease_counts(yard: Yard):
    yard.add()
    (old,) = yard.claim()
    yard.store.free(1, lock=NODE)
    (again,) = yard.claim()
    moves = yard.moves([old], 400, OPTIONS) + yard.moves([again, again], 200, OPTIONS)
    assert yard.store.finish(NODE, [Finished(TYPE, moves)]) == {old.id}
    assert yard.counts() == (0, 0, 1, 0, 0)


def test_moves_of_another_type_or_of_unknown_jobs_are_stale(yard: Yard):
    yard.add()
    (job,) = yard.claim()
    ghost = Move([yard.block(1).first], 1, done_dt(START_MS), DONE, 200, 0, 0)
    moves = yard.moves([job], 200, OPTIONS)
    assert yard.store.finish(NODE, [Finished(TYPE, [ghost])]) == {*ghost.ids}
    assert yard.store.finish(NODE, [Finished("no/such", [ghost])]) == {*ghost.ids}
    yard.add("acme/sms")
    assert yard.store.finish(NODE, [Finished("acme/sms", moves)]) == {job.id}
    assert yard.counts() == (0, 1, 0, 0, 0)


def test_finishing_nothing_is_nothing(yard: Yard):
    assert yard.store.finish(NODE, []) == set()
    assert yard.store.renew(NODE, [], lease_ms=1) == set()
    assert yard.store.release(NODE, []) == 0


def test_the_leases_of_a_node_are_its_own_whether_they_are_over_or_not(yard: Yard):
    yard.add(count=4)
    first, second = yard.claim(limit=2)
    (of_other,) = yard.claim(limit=1, lock=OTHER)
    assert yard.store.leases(NODE) == {lease_of(first), lease_of(second)}
    yard.clock.advance(LEASE_MS)
    assert yard.other.leases(NODE) == {lease_of(first), lease_of(second)}
    yard.finish([first], 200)
    assert yard.store.leases(NODE) == {lease_of(second)}
    assert yard.store.leases(OTHER) == {lease_of(of_other)}
    for nobody in ("nodeCCCC", "", "__done"):
        assert yard.store.leases(nobody) == set()


def test_a_released_job_keeps_its_place_and_its_attempts_count_on(yard: Yard):
    ids = yard.add(count=3)
    jobs = yard.claim(limit=2)
    assert yard.store.release(NODE, [lease_of(job) for job in jobs] * 2) == 2
    assert yard.counts() == (3, 0, 0, 0, 0)
    again = yard.claim()
    assert ids_of(again) == ids
    assert [job.attempt for job in again] == [2, 2, 1]
    view = yard.store.job(ids[0])
    assert view is not None
    assert (view.runs, view.failures, view.crashes) == ([], 0, 0)


def test_only_abandoned_jobs_are_freed_the_longest_abandoned_first(yard: Yard):
    yard.add(count=2)
    (early,) = yard.claim(limit=1)
    yard.clock.advance(10)
    (late,) = yard.claim(limit=1)
    yard.clock.advance(LEASE_MS - 11)
    assert yard.store.free(10) == (0, 0, {})
    yard.clock.advance(11)
    assert yard.store.free(1) == (1, 0, {TYPE: START_MS})
    views = [yard.store.job(job.id) for job in (early, late)]
    assert [view.lock for view in views if view] == [FREE, NODE]
    assert yard.store.free(10) == (1, 0, {TYPE: START_MS})
    assert yard.counts() == (2, 0, 0, 0, 0)


def test_a_job_whose_lease_holds_is_not_freed_with_one_that_is_abandoned(yard: Yard):
    yard.add(count=2)
    (abandoned,) = yard.claim(limit=1)
    yard.clock.advance(LEASE_MS // 2)
    (held,) = yard.claim(limit=1)
    yard.clock.advance(LEASE_MS // 2)
    assert yard.other.free(10) == (1, 0, {TYPE: START_MS})
    views = [yard.store.job(job.id) for job in (abandoned, held)]
    assert [view.lock for view in views if view] == [FREE, NODE]
    assert yard.finish([held]) == set()


def test_a_freed_job_tells_what_happened(yard: Yard):
    (id_,) = yard.add()
    yard.claim()
    yard.clock.advance(LEASE_MS)
    yard.other.free(10)
    view = yard.store.job(id_)
    assert view is not None
    assert (view.crashes, view.failures, view.status, view.dt) == (1, 0, 521, START_MS)
    assert view.runs == [
        Run(
            attempt=1,
            status=521,
            node=NODE,
            started_at=START_MS,
            ended_at=START_MS + LEASE_MS,
            error=ABANDONED_TEXT,
        )
    ]


def test_a_job_that_is_abandoned_too_often_is_done_with_an_error(yard: Yard):
    (id_,) = yard.add()
    for crash in range(1, CRASHES_MAX + 1):
        yard.claim()
        yard.clock.advance(LEASE_MS)
        dead = int(crash == CRASHES_MAX)
        assert yard.store.free(10)[:2] == (1 - dead, dead)
    view = yard.store.job(id_)
    assert view is not None
    assert (view.lock, view.status, len(view.runs)) == (DONE, 521, CRASHES_MAX)
    assert view.error == ABANDONED_TEXT
    assert yard.counts() == (0, 0, 0, 0, 1)
    assert yard.claim() == []


def test_all_jobs_of_a_dead_node_are_freed_at_once_and_no_others(yard: Yard):
    yard.add(count=6)
    yard.claim(limit=4, lock=OTHER)
    mine = yard.claim(limit=2)
    assert yard.store.free(3, lock=OTHER).again == 3
    assert yard.store.free(3, lock=OTHER).again == 1
    assert yard.store.free(3, lock=OTHER).again == 0
    assert yard.store.renew(NODE, list(map(lease_of, mine)), lease_ms=LEASE_MS) == set()


def test_a_job_that_runs_for_ever_keeps_its_last_runs_only(yard: Yard):
    (id_,) = yard.add()
    options = Options(backoff_min_ms=1, backoff_max_ms=1)
    for _ in range(RUNS_MAX + 3):
        yard.clock.advance(1)
        yard.finish(yard.claim(), 102, options=options, output=b"tail")
    view = yard.store.job(id_)
    assert view is not None
    assert [run.attempt for run in view.runs] == list(range(4, RUNS_MAX + 4))


def test_two_nodes_never_hold_one_job(yard: Yard):
    yard.add(count=100)
    held: dict[str, str] = {}
    for turn in range(30):
        lock = (NODE, OTHER)[turn % 2]
        for job in yard.claim(limit=7, lock=lock):
            assert job.id not in held
            held[job.id] = lock
    assert len(held) == 100
