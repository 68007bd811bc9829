"""Dispatch: no more is claimed than may start, and leases are kept or given up in time."""

from __future__ import annotations

import pytest
from engine_kit import START_MS, TYPE, Rig, handler, ids_of

from slimq.core.lifecycle import FREE
from slimq.core.limits import BATCH_BYTES_MAX, CLAIM_MAX, CRASHES_MAX, LEASE_MS, RENEW_MS
from slimq.errors import StoreUnavailable
from slimq.store.base import Policy


def set_up(rig: Rig, count: int, **written: object) -> list[str]:
    """Let `count` jobs and a handler be known, and nothing started."""
    ids = rig.add(*(b"%d" % n for n in range(count)))
    rig.engine.stopped = True
    rig.memory.put_handler(handler(**written))
    rig.step()
    return ids


def crash(rig: Rig, ids: list[str], *, crashes: int = 1) -> None:
    """Let jobs lose a node that ran them."""
    for _ in range(crashes):
        jobs = rig.memory.claim(TYPE, "deadNODE", len(ids), lease_ms=1, bytes_max=1 << 30).jobs
        assert [job.id for job in jobs] == ids
        rig.memory.free(1000, lock="deadNODE")


# Claiming.


def test_no_more_is_claimed_than_there_are_slots_for(rig: Rig) -> None:
    rig.memory.put_handler(handler(batch_size=3))
    rig.add(*(b"x" for _ in range(100)))
    rig.step()
    assert [len(flight.batch.jobs) for flight in rig.air] == [3] * 6  # of 8 slots: 3/4
    assert rig.counts()[:2] == (82, 18)
    assert [args[2] for args, _ in rig.store.called("claim")] == [18]
    rig.step()
    assert len(rig.air) == 6


def test_oldest_first_in_whole_batches_and_the_rest_in_one_that_is_not_full(rig: Rig) -> None:
    ids = set_up(rig, 7, batch_size=3)
    assert rig.dispatcher.step() == 7
    assert [ids_of(flight) for flight in rig.air] == [ids[:3], ids[3:6], ids[6:]]
    assert rig.dispatcher.running_jobs == 7


def test_one_claim_asks_for_a_bounded_number_of_jobs_and_bytes(rig: Rig) -> None:
    set_up(rig, 1, batch_size=10_000)
    rig.dispatcher.step()
    ((args, kwargs),) = rig.store.called("claim")
    assert args[2] == CLAIM_MAX
    assert kwargs["bytes_max"] == BATCH_BYTES_MAX
    assert kwargs["lease_ms"] == LEASE_MS


def test_the_concurrency_of_a_handler_is_never_passed(rig: Rig) -> None:
    set_up(rig, 50, batch_size=2, concurrency=3)
    rig.dispatcher.step()
    assert len(rig.air) == 3
    rig.engine.stopped = False
    for _ in range(20):
        rig.land(rig.air[0], 200)
        rig.step()
        assert len(rig.air) == 3


def test_jobs_with_crashes_go_alone(rig: Rig) -> None:
    ids = set_up(rig, 5, batch_size=10)
    crash(rig, ids[:2])
    rig.dispatcher.step()
    assert sorted(map(ids_of, rig.air)) == sorted([ids[:1], ids[1:2], ids[2:]])
    assert [job.crashes for flight in rig.air for job in flight.batch.jobs].count(1) == 2


def test_jobs_that_go_alone_do_not_pass_the_concurrency_of_their_handler(rig: Rig) -> None:
    ids = set_up(rig, 30, batch_size=30, concurrency=2)
    crash(rig, ids[:20])
    rig.dispatcher.step()
    assert len(rig.air) == 2
    rig.engine.stopped = False
    seen: list[str] = []
    while rig.air:
        assert len(rig.air) <= 2
        flight = rig.air[0]
        assert len(flight.batch.jobs) == 1 or all(not job.crashes for job in flight.batch.jobs)
        seen += ids_of(flight)
        rig.land(flight, 200)
        rig.step()
    assert sorted(seen) == sorted(ids)
    assert rig.counts() == (0, 0, 30, 0, 0)


def test_what_is_claimed_beyond_what_may_start_is_given_back_unharmed(rig: Rig) -> None:
    ids = set_up(rig, 20, batch_size=20, concurrency=2)
    crash(rig, ids)
    started = rig.dispatcher.step()
    in_air = [id_ for flight in rig.air for id_ in ids_of(flight)]
    assert started == len(in_air) == 2
    assert in_air == ids[:2]
    for id_ in ids[2:]:
        job = rig.job(id_)
        assert (job.lock, job.dt, job.failures, job.crashes) == (FREE, START_MS, 0, 1)


def test_after_a_crash_no_more_is_claimed_than_can_go_alone(rig: Rig) -> None:
    ids = set_up(rig, 40, batch_size=40, concurrency=2)
    crash(rig, ids[:6])
    rig.dispatcher.step()
    rig.engine.stopped = False
    while rig.air:
        rig.land(rig.air[0], 200)
        rig.step()
    limits = [args[2] for args, _ in rig.store.called("claim")]
    assert limits[0] == 80
    assert limits[1:6] == [1] * 5
    assert len(rig.store.called("release")) == 1
    assert rig.counts() == (0, 0, 40, 0, 0)


def test_what_could_not_be_given_back_is_given_back_later(rig: Rig) -> None:
    ids = set_up(rig, 20, batch_size=20, concurrency=2)
    crash(rig, ids)
    rig.store.fail("release", times=2)
    with pytest.raises(StoreUnavailable):
        rig.dispatcher.step()
    assert len(rig.air) == 2
    assert rig.counts()[:2] == (0, 20)
    assert not rig.try_step()
    rig.step()
    assert rig.counts()[:2] == (18, 2)


def test_a_job_with_too_many_crashes_never_starts_again(rig: Rig) -> None:
    ids = set_up(rig, 1)
    crash(rig, ids, crashes=CRASHES_MAX)
    assert rig.dispatcher.step() == 0
    assert rig.counts() == (0, 0, 0, 0, 1)


def test_a_batch_window_lets_an_incomplete_batch_wait(rig: Rig) -> None:
    set_up(rig, 3, batch_size=5, batch_window="2s")
    assert rig.dispatcher.step() == 0
    assert rig.scheduler.next_at() == START_MS + 2000
    rig.clock.advance(2000)
    assert rig.dispatcher.step() == 3


def test_a_full_batch_does_not_wait_for_its_window(rig: Rig) -> None:
    set_up(rig, 5, batch_size=5, batch_window="2s")
    assert rig.dispatcher.step() == 5


def test_an_ordered_type_runs_one_job_at_a_time_oldest_first(rig: Rig) -> None:
    ids = set_up(rig, 4, ordered=True)
    rig.engine.stopped = False
    order = []
    for _ in ids:
        rig.step()
        (flight,) = rig.air
        order += ids_of(flight)
        rig.land(flight, 200)
    assert order == ids


def test_a_store_that_fails_a_claim_leaves_the_type_ready(rig: Rig) -> None:
    ids = set_up(rig, 4, batch_size=2, concurrency=2)
    rig.store.fail("claim")
    with pytest.raises(StoreUnavailable):
        rig.dispatcher.step()
    assert rig.air == []
    assert rig.dispatcher.step() == 4
    assert [ids_of(flight) for flight in rig.air] == [ids[:2], ids[2:]]


def test_a_store_that_fails_the_second_claim_keeps_what_the_first_brought(rig: Rig) -> None:
    for client in ("a", "b"):
        rig.memory.put_handler(handler(client=client))
        rig.add(b"x", type=f"{client}/mail")
    rig.store.fail("claim", after=1)
    assert not rig.try_step()
    assert len(rig.air) == len(rig.dispatcher.flights) == 1
    rig.step()
    assert sorted(flight.batch.type for flight in rig.air) == ["a/mail", "b/mail"]


def test_a_paused_type_starts_nothing(rig: Rig) -> None:
    set_up(rig, 1)
    rig.memory.put_policy(Policy(client="acme", jobtype="mail", paused=True))
    rig.engine.stopped = False
    rig.step()
    assert rig.air == []
    rig.memory.put_policy(Policy(client="acme", jobtype="mail", paused=False))
    rig.step()
    assert len(rig.air) == 1


def test_a_backlog_follows_a_new_handler(rig: Rig) -> None:
    set_up(rig, 3, batch_size=1, concurrency=1)
    rig.engine.stopped = False
    rig.step()
    rig.memory.put_handler(handler(batch_size=1, concurrency=2))
    rig.step()
    assert [flight.batch.handler.version for flight in rig.air] == [1, 2]
    rig.land(rig.air[0], 200)
    rig.step()
    assert [flight.batch.handler.version for flight in rig.air] == [2, 2]


# Leases.


def test_the_deadline_of_a_run_counts_from_before_the_claim(rig: Rig) -> None:
    set_up(rig, 1)
    boot = rig.clock.boot_ms()
    rig.store.before = lambda name: rig.clock.advance(4000) if name == "claim" else None
    rig.dispatcher.step()
    assert rig.air[0].deadline_ms == boot + LEASE_MS


def test_leases_are_renewed_when_it_is_time_and_deadlines_move(rig: Rig) -> None:
    flights = rig.launch(b"a", b"b", batch_size=1)
    rig.dispatcher.renew()
    boot = rig.clock.boot_ms()
    rig.store.forget_calls()
    rig.clock.advance(RENEW_MS - 1)
    assert rig.dispatcher.renew() == 0
    assert rig.events == []
    rig.clock.advance(1)
    assert rig.dispatcher.renew() == 0
    assert rig.events == ["renew"]
    assert {flight.deadline_ms for flight in flights} == {boot + RENEW_MS + LEASE_MS}
    assert {rig.job(ids_of(f)[0]).dt for f in flights} == {START_MS + RENEW_MS + LEASE_MS}


def test_a_run_keeps_its_lease_however_long_it_takes(rig: Rig) -> None:
    (flight,) = rig.launch(b"a")
    for _ in range(50):
        rig.clock.advance(RENEW_MS)
        rig.step()
    assert (rig.air, rig.killed) == ([flight], [])
    assert rig.job(ids_of(flight)[0]).attempt == 1


def test_nothing_is_renewed_while_nothing_runs(rig: Rig) -> None:
    rig.dispatcher.renew(now=True)
    assert rig.events == []


def test_a_renewal_that_failed_is_tried_again_and_moves_no_deadline(rig: Rig) -> None:
    (flight,) = rig.launch(b"a")
    rig.dispatcher.renew()
    deadline = flight.deadline_ms
    rig.clock.advance(RENEW_MS)
    rig.store.fail("renew")
    with pytest.raises(StoreUnavailable):
        rig.dispatcher.renew()
    assert flight.deadline_ms == deadline
    rig.dispatcher.renew()
    assert flight.deadline_ms == deadline + RENEW_MS


def test_a_renewal_that_was_wanted_now_stays_wanted_when_it_fails(rig: Rig) -> None:
    (flight,) = rig.launch(b"a")
    rig.dispatcher.renew()
    rig.memory.cancel(ids_of(flight))
    rig.store.fail("renew")
    with pytest.raises(StoreUnavailable):
        rig.dispatcher.renew(now=True)
    assert rig.dispatcher.renew() == 1
    assert rig.killed == [flight]


def test_a_run_that_lost_all_leases_is_killed_and_others_are_not(rig: Rig) -> None:
    lost, half, held = rig.launch(b"a", b"b", b"c", b"d", b"e", b"f", batch_size=2)
    rig.memory.cancel([*ids_of(lost), ids_of(half)[0]])
    assert rig.dispatcher.renew(now=True) == 3
    assert rig.killed == [lost]
    assert held.deadline_ms == half.deadline_ms


def test_a_lost_lease_is_counted_once(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", batch_size=2)
    rig.memory.cancel(ids_of(flight)[:1])
    assert [rig.dispatcher.renew(now=True) for _ in range(3)] == [1, 0, 0]


def test_a_newer_run_of_a_job_is_not_killed_for_the_leases_of_an_older_one(rig: Rig) -> None:
    (older,) = rig.launch(b"a", b"b", batch_size=2)
    first, _ = ids_of(older)
    rig.dispatcher.renew()
    rig.memory.cancel([first])
    rig.memory.retry([first])
    rig.clock.advance(1000)
    rig.step()
    newer = rig.air[1]
    assert [(job.id, job.attempt) for job in newer.batch.jobs] == [(first, 2)]
    rig.dispatcher.renew(now=True)
    assert rig.killed == []
    rig.memory.cancel(ids_of(older)[1:])
    rig.dispatcher.renew(now=True)
    assert rig.killed == [older]


def test_released_jobs_keep_no_failure_and_their_place_in_line(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", b"b", batch_size=2)
    rig.clock.advance(5000)
    rig.dispatcher.release(flight)
    for id_ in ids_of(flight):
        job = rig.job(id_)
        assert (job.lock, job.dt, job.failures, job.crashes) == (FREE, START_MS, 0, 0)


def test_a_killed_flight_gives_nothing_back_that_another_flight_has_claimed_anew(
    rig: Rig,
) -> None:
    """A store that fell back gives the same attempt to the same node once more."""
    before = rig.memory.copy()
    (flight,) = rig.launch(b"a")
    rig.store.inner = rig.memory = before
    rig.memory.put_handler(handler())
    rig.engine.look_again = True
    rig.clock.advance(RENEW_MS)  # the engine finds out
    for _ in range(3):
        rig.step()
    assert rig.killed == [flight]
    (_, again) = rig.air
    assert again.batch.jobs == flight.batch.jobs
    rig.dispatcher.release(flight)
    assert rig.job(*ids_of(again)).lock == rig.sysid
    rig.dispatcher.landed(flight, START_MS)
    rig.dispatcher.release(again)
    assert rig.job(*ids_of(again)).lock == FREE


def test_what_was_taken_over_is_not_released(rig: Rig) -> None:
    (flight,) = rig.launch(b"a", batch_size=2)
    (id_,) = ids_of(flight)
    rig.clock.advance(LEASE_MS)
    rig.memory.free(10)
    (job,) = rig.memory.claim(TYPE, "nodeBBBB", 9, lease_ms=LEASE_MS, bytes_max=9).jobs
    rig.dispatcher.release(flight)
    assert (rig.job(id_).lock, rig.job(id_).attempt) == ("nodeBBBB", job.attempt)


def test_a_flight_that_landed_makes_room_for_the_next(rig: Rig) -> None:
    set_up(rig, 2, batch_size=1, concurrency=1)
    rig.dispatcher.step()
    (flight,) = rig.air
    rig.dispatcher.landed(flight, rig.memory.now())
    assert not rig.dispatcher.flights
    assert rig.dispatcher.step() == 1
