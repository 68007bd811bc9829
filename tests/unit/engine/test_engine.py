"""The engine: everything that is due gets done, once, whatever the store does meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_kit import NODE, OTHER, START_MS, TYPE, Beside, MakeRig, Rig, child, handler, ids_of

from slimq.core.job import Result
from slimq.core.jobid import child_id
from slimq.core.limits import (
    FORMER_LOOK_MS,
    FORMER_MS,
    FREE_JOBS_MAX,
    INGEST_JOBS_MAX,
    LEASE_MS,
    RENEW_MS,
    SCAN_TYPES_MAX,
)
from slimq.engine import GATHER_JOBS, SAFE_EVERY_MS, SysidTaken
from slimq.errors import JournalFailed, StoreUnavailable


def start_other(rig: Rig, name: str = OTHER) -> Rig:
    """Return another node on the same store."""
    return Rig(rig.folder.with_name(name), store=rig.memory, clock=rig.clock, sysid=name)


def events_of(rig: Rig) -> list[dict[str, object]]:
    return [json.loads(line) for line in rig.written.getvalue().splitlines()]


def names_of(rig: Rig) -> list[object]:
    return [event["event"] for event in events_of(rig)]


class Running:
    """The engine in its thread. Leaving ends it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.rig.engine.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rig.engine.end()
        self.thread.join(20)
        assert (self.thread.is_alive(), self.error) == (False, None)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the thread will do; fail when it does not."""
        end = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.002)


# A job's way.


def test_a_line_becomes_a_done_job(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    (id_,) = rig.add(b"data")
    assert rig.step()
    (flight,) = rig.air
    assert [job.data for job in flight.batch.jobs] == [b"data"]
    rig.land(flight, Result(200, b"fine"), output=b"log")
    assert rig.step()
    job = rig.job(id_)
    assert (job.status, job.result, job.attempt, len(job.runs)) == (200, b"fine", 1, 1)
    assert rig.moved == [id_]
    assert not rig.step()
    assert rig.engine.counters["ingested"] == 1
    assert rig.engine.outcomes == {"ok": 1}


def test_children_run_without_a_scan(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    rig.memory.put_handler(handler("next"))
    (flight,) = rig.launch(b"data")
    rig.land(flight, 200, children=[[child("next", b"more")]])
    rig.step()
    (next_flight,) = rig.air
    assert ids_of(next_flight) == [child_id(ids_of(flight)[0], 0)]


def test_a_deferred_job_starts_when_it_is_due_and_never_before(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    rig.add(b"data", dt=START_MS + 5000)
    for _ in range(5):
        rig.step()
        assert rig.air == []
        rig.clock.advance(999)
    rig.clock.advance(4)
    rig.step()
    assert rig.air == []
    rig.clock.advance(1)
    rig.step()
    assert len(rig.air) == 1


def test_a_killed_flight_gives_its_jobs_back_and_they_run_again(rig: Rig) -> None:
    (flight,) = rig.launch(b"data")
    rig.down(flight)
    rig.step()
    (again,) = rig.air
    (job,) = again.batch.jobs
    assert (job.id, job.attempt, job.failures, job.crashes) == (*ids_of(flight), 2, 0, 0)
    assert rig.moved == ids_of(flight)


# The store fails while results are recorded.


@pytest.mark.parametrize("name", ["finish", "release", "renew"])
def test_a_flight_lands_once_however_often_the_store_fails(rig: Rig, name: str) -> None:
    """`concurrency` is 2: were a slot freed twice, a third flight would be in the air."""
    ran, killed = rig.launch(*(b"x" for _ in range(9)), batch_size=1, concurrency=2)
    rig.land(ran, 200, children=[[child("none", b"1")]])
    rig.down(killed)
    rig.store.fail(name, times=3)
    failures = 0
    while not rig.try_step():
        failures += 1
        assert rig.air == []
        assert rig.dispatcher.flights.keys() == {ran, killed}
    assert failures == 3
    assert len(rig.air) == 2
    for _ in range(12):
        if rig.air:
            rig.land(rig.air[0], 200)
        rig.step()
        assert len(rig.air) <= 2
    assert rig.counts() == (0, 0, 9, 0, 0)
    assert rig.counts("acme/none")[0] == 1


def test_what_ran_while_the_store_was_down_is_finished_later(rig: Rig) -> None:
    flights = rig.launch(*(b"x" for _ in range(4)), batch_size=1)
    rig.store.down = True
    for flight in flights:
        rig.land(flight, 200)
        assert not rig.try_step()
    rig.store.down = False
    rig.step()
    assert rig.counts() == (0, 0, 4, 0, 0)
    assert [job.attempt for job in map(rig.job, rig.moved)] == [1] * 4


def test_results_are_recorded_although_the_lease_is_over_when_nobody_took_the_job(
    rig: Rig,
) -> None:
    (flight,) = rig.launch(b"x")
    rig.store.down = True
    rig.land(flight, 200)
    rig.clock.advance(2 * LEASE_MS)
    assert not rig.try_step()
    rig.store.down = False
    rig.step()
    assert rig.counts() == (0, 0, 1, 0, 0)


def test_a_stale_result_changes_nothing_and_is_counted(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    (id_,) = ids_of(flight)
    rig.memory.cancel([id_])
    rig.land(flight, 200)
    rig.step()
    assert rig.job(id_).status == 499
    assert rig.engine.counters["stale_completions"] == 1
    assert rig.engine.outcomes == {}
    assert not rig.dispatcher.flights


def test_a_job_that_was_cancelled_is_killed_when_the_engine_looks_again(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.step()
    rig.memory.cancel(ids_of(flight))
    rig.step()
    assert rig.killed == []
    rig.engine.look_again = True
    rig.step()
    assert rig.killed == [flight]
    assert rig.engine.counters["leases_lost"] == 1


def test_the_engine_looks_again_once(rig: Rig) -> None:
    rig.launch(b"x")
    rig.engine.look_again = True
    rig.step()
    rig.store.forget_calls()
    for _ in range(3):
        rig.step()
    assert "renew" not in rig.events


def test_a_look_that_is_wanted_while_the_engine_looks_is_not_lost(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.step()

    def cancel_meanwhile(name: str) -> None:
        if name == "finish" or (name == "renew" and not rig.engine.look_again):
            rig.engine.look_again = True

    rig.engine.look_again = True
    rig.store.before = cancel_meanwhile
    rig.step()
    rig.store.before = None
    rig.memory.cancel(ids_of(flight))
    rig.step()
    assert rig.killed == [flight]


def test_a_look_that_the_store_refused_is_done_later(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.step()
    rig.memory.cancel(ids_of(flight))
    rig.engine.look_again = True
    rig.store.fail("renew")
    assert not rig.try_step()
    rig.step()
    assert rig.killed == [flight]


def test_a_journal_that_cannot_be_read_keeps_no_result_from_being_recorded(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.add(b"y")
    (path,) = rig.segment_files()
    away = path.rename(path.with_suffix(".away"))
    rig.land(flight, 200)
    with pytest.raises(JournalFailed):
        rig.step()
    assert rig.counts()[2] == 1
    away.rename(path)
    rig.step()
    assert len(rig.air) == 1


def test_a_journal_that_cannot_be_read_keeps_no_job_of_the_store_from_running(rig: Rig) -> None:
    rig.add(b"in the store")
    rig.step()
    rig.add(b"in the journal")
    (path,) = rig.segment_files()
    path.rename(path.with_suffix(".away"))
    rig.memory.put_handler(handler())
    with pytest.raises(JournalFailed):
        rig.step()
    assert [job.data for flight in rig.air for job in flight.batch.jobs] == [b"in the store"]


# Runs are recorded beside the steps of the engine.


def test_the_engine_goes_on_while_what_ran_is_recorded(make_rig: MakeRig) -> None:
    beside = Beside()
    rig = make_rig(submit=beside.submit)
    (flight,) = rig.launch(b"x")
    rig.land(flight, 200)
    assert not rig.step()
    (id_,) = rig.add(b"y")
    rig.step()
    assert [ids_of(other) for other in rig.air] == [[id_]]
    assert rig.dispatcher.flights.keys() == {flight, *rig.air}
    assert rig.moved == []
    beside.end()
    assert rig.step()
    assert rig.dispatcher.flights.keys() == {*rig.air}
    assert rig.moved == ids_of(flight)
    assert rig.counts() == (0, 1, 1, 0, 0)


def test_a_batch_has_its_slot_until_it_is_recorded(make_rig: MakeRig) -> None:
    beside = Beside()
    rig = make_rig(submit=beside.submit)
    (flight,) = rig.launch(b"x", b"y", batch_size=1, concurrency=1)
    rig.land(flight, 200)
    for _ in range(3):
        rig.step()
        assert rig.air == []
    beside.end()
    rig.step()
    assert len(rig.air) == 1


def test_a_lease_that_went_with_the_record_of_its_run_is_not_lost(make_rig: MakeRig) -> None:
    beside = Beside()
    rig = make_rig(submit=beside.submit)
    ended, running = rig.launch(b"x", b"y", batch_size=1)
    rig.land(ended, 200)
    rig.step()
    beside.begin()
    rig.clock.advance(RENEW_MS)
    rig.step()
    assert rig.engine.counters["leases_lost"] == 0
    assert rig.killed == []
    assert rig.job(*ids_of(running)).dt == rig.clock.wall_ms() + LEASE_MS
    assert running.deadline_ms == rig.clock.boot_ms() + LEASE_MS
    beside.end()
    rig.step()
    assert rig.counts() == (0, 1, 1, 0, 0)


def test_what_could_not_be_recorded_is_tried_again(make_rig: MakeRig) -> None:
    beside = Beside()
    rig = make_rig(submit=beside.submit)
    (flight,) = rig.launch(b"x")
    rig.land(flight, 200)
    rig.step()
    rig.store.fail("finish")
    beside.end()
    assert not rig.try_step()
    assert rig.dispatcher.flights.keys() == {flight}
    rig.step()
    beside.end()
    rig.step()
    assert rig.counts() == (0, 0, 1, 0, 0)
    assert not rig.dispatcher.flights


def test_trouble_with_recording_is_said_once_until_it_is_over(make_rig: MakeRig) -> None:
    """Were it tried beside steps that work, each of these would say that the store is back."""
    with ThreadPoolExecutor(1) as thread:
        rig = make_rig(submit=thread.submit)
        (flight,) = rig.launch(b"x")
        rig.store.fail("finish", times=4)
        rig.land(flight, 200)
        with Running(rig) as running:
            running.until(lambda: "store.available" in names_of(rig))
    assert rig.counts() == (0, 0, 1, 0, 0)
    assert names_of(rig).count("store.unavailable") == 1


def test_what_is_being_recorded_at_the_end_is_waited_for(make_rig: MakeRig) -> None:
    beside = Beside()
    rig = make_rig(submit=beside.submit)
    first, second = rig.launch(b"x", b"y", batch_size=1)
    rig.land(first, 200)
    rig.step()
    rig.land(second, 200)
    rig.engine.end()
    rig.engine.run()
    assert rig.counts() == (0, 0, 2, 0, 0)
    assert rig.engine.holds_no_lease


# Stopped, draining, ending.


def test_a_stopped_engine_goes_on_ingesting_and_finishing_and_starts_nothing(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.engine.stopped = True
    (id_,) = rig.add(b"y")
    rig.land(flight, 200)
    rig.step()
    assert rig.job(id_).lock == ""
    assert rig.counts() == (1, 0, 1, 0, 0)
    rig.engine.stopped = False
    rig.step()
    assert len(rig.air) == 1


def test_a_draining_engine_starts_nothing(rig: Rig) -> None:
    flights = rig.launch(b"x", b"y", b"z", batch_size=1, concurrency=2)
    rig.engine.drain()
    for flight in flights:
        rig.land(flight, 200)
        rig.step()
    assert rig.air == []
    assert rig.counts() == (1, 0, 2, 0, 0)


def test_an_engine_says_when_it_starts_nothing_more_also_when_the_store_is_down(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    with Running(rig) as running:
        running.until(lambda: rig.events[-1:] == ["barrier"])
        assert not rig.engine.holds.is_set()
        rig.store.down = True
        rig.engine.drain()
        assert rig.engine.holds.wait(10)
        rig.store.heal()
        rig.add(b"x")
        rig.engine.wake()
        running.until(lambda: rig.memory.type(TYPE) is not None)
    assert rig.air == []
    assert rig.counts() == (1, 0, 0, 0, 0)


def test_what_comes_right_after_a_small_ingest_waits_for_more(make_rig: MakeRig) -> None:
    rig = make_rig(gather_ms=5)
    rig.memory.put_handler(handler())
    rig.add(b"a")
    assert rig.step()
    rig.add(b"b")
    rig.add(b"c")
    rig.clock.advance(4)
    rig.step()
    assert len(rig.store.called("ingest")) == 1
    rig.clock.advance(1)
    rig.step()
    assert len(rig.store.called("ingest")) == 2
    assert not rig.ingester.behind


def test_a_large_ingest_goes_on_at_once(make_rig: MakeRig) -> None:
    rig = make_rig(gather_ms=5)
    for _ in range(2):
        rig.add(*[b"x"] * GATHER_JOBS)
        rig.step()
    assert len(rig.store.called("ingest")) == 2


def test_a_stopped_engine_keeps_the_leases_of_what_runs(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.engine.stopped = True
    for _ in range(5):
        rig.clock.advance(RENEW_MS)
        rig.step()
    assert rig.job(*ids_of(flight)).dt == rig.clock.wall_ms() + LEASE_MS
    assert rig.killed == []


def test_what_landed_at_the_end_is_recorded_and_ingested(rig: Rig) -> None:
    flights = rig.launch(*(b"x" for _ in range(6)), batch_size=1)
    for flight in flights[:5]:
        rig.land(flight, 200)
    rig.down(flights[5])
    (id_,) = rig.add(b"y")
    rig.engine.end()
    rig.engine.run()
    assert rig.counts() == (2, 0, 5, 0, 0)
    assert rig.job(id_).lock == ""
    assert rig.store.events[-1] == "barrier"
    assert rig.engine.holds_no_lease


def test_a_store_that_is_down_at_the_end_ends_the_engine_all_the_same(rig: Rig) -> None:
    (flight,) = rig.launch(b"x")
    rig.land(flight, 200)
    rig.store.down = True
    rig.engine.end()
    rig.engine.run()
    assert "store.unavailable" in names_of(rig)
    assert not rig.engine.holds_no_lease  # the next boot has to take its jobs back


# Sysids.


def test_a_sysid_that_is_taken_stops_the_engine(rig: Rig) -> None:
    other = Rig(rig.folder.with_name("other"), store=rig.memory, clock=rig.clock)
    other.step()
    with pytest.raises(SysidTaken):
        rig.step()
    with pytest.raises(SysidTaken):
        rig.engine.run()
    assert rig.air == []
    other.close()


def test_a_sysid_is_reserved_once(rig: Rig) -> None:
    for _ in range(5):
        rig.step()
        rig.clock.advance(LEASE_MS)
    assert len(rig.store.called("register")) == 1


def test_jobs_of_former_boots_run_at_once(rig: Rig) -> None:
    first = rig.launch(b"a", b"b", batch_size=1)
    rig.boot("nodeCCCC", ["long-ago", NODE])
    rig.step()
    assert sorted(id_ for flight in rig.air for id_ in ids_of(flight)) == sorted(
        id_ for flight in first for id_ in ids_of(flight)
    )
    assert {job.crashes for flight in rig.air for job in flight.batch.jobs} == {1}
    assert rig.engine.counters["freed"] == 2


def test_what_a_server_did_for_a_former_boot_after_its_end_is_undone_too(rig: Rig) -> None:
    rig.boot("nodeCCCC", [NODE])
    rig.step()
    (late,) = rig.add(b"x")
    rig.ingest_all()
    rig.memory.put_handler(handler())
    rig.memory.claim(TYPE, NODE, 1, lease_ms=LEASE_MS, bytes_max=9)
    rig.step()
    assert rig.air == []
    rig.clock.advance(FORMER_LOOK_MS)
    rig.step()
    assert [id_ for flight in rig.air for id_ in ids_of(flight)] == [late]


def test_a_former_boot_is_forgotten_when_nothing_can_come_of_it_any_more(rig: Rig) -> None:
    rig.boot("nodeCCCC", ["long-ago", NODE])
    for _ in range(FORMER_MS // FORMER_LOOK_MS):
        rig.step()
        assert rig.forgotten_boots == []
        rig.clock.advance(FORMER_LOOK_MS)
    rig.step()
    assert rig.forgotten_boots == ["long-ago", NODE]
    rig.store.forget_calls()
    rig.clock.advance(FORMER_LOOK_MS)
    rig.step()
    assert not any(named for _, named in rig.store.called("free"))


def test_all_jobs_of_a_former_boot_are_freed_before_any_other_runs(rig: Rig) -> None:
    count = 2 * FREE_JOBS_MAX + 1
    rig.launch(*(b"x" for _ in range(count)), batch_size=10_000)
    assert rig.counts()[1] == count
    rig.boot("nodeCCCC", [NODE])
    rig.engine.stopped = True
    rig.store.fail("free", after=2)
    assert not rig.try_step()
    assert len(rig.store.called("register")) == 1
    rig.step()
    assert len(rig.store.called("register")) == 2
    assert rig.counts()[:2] == (count, 0)
    assert rig.engine.counters["freed"] == count


def test_results_of_a_former_boot_are_stale(rig: Rig) -> None:
    (flight,) = rig.launch(b"a")
    former = rig.engine
    rig.boot("nodeCCCC", [NODE])
    rig.step()
    flight.ran = None
    former.landed(flight)
    former.step()
    (again,) = rig.air
    assert rig.job(*ids_of(again)).lock == "nodeCCCC"


# Several nodes.


def test_work_of_other_nodes_is_found_by_the_scan(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    rig.step()
    other = start_other(rig)
    other.engine.stopped = True
    other.add(b"x")
    other.step()
    rig.step()
    assert rig.air == []
    rig.clock.advance(1000)
    rig.step()
    assert len(rig.air) == 1
    other.close()


def test_work_that_another_node_tells_of_is_started_with_the_next_step(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    rig.step()  # the next scan is a second away
    other = start_other(rig)
    (id_,) = other.add(b"data")
    other.ingest_all()
    rig.step()
    assert rig.air == []
    rig.engine.heard("jobs")
    rig.step()
    (flight,) = rig.air
    assert [job.id for job in flight.batch.jobs] == [id_]
    other.close()


def test_a_stopped_engine_does_not_look_for_what_others_tell_of(rig: Rig) -> None:
    rig.engine.stopped = True
    rig.step()
    rig.store.forget_calls()
    rig.engine.heard("jobs")
    rig.step()
    assert rig.store.called("due") == []


def test_a_node_tells_of_what_it_accepts_when_it_does_not_run_it_and_it_is_due_soon(
    rig: Rig,
) -> None:
    rig.add(b"it runs this itself")
    rig.step()
    assert rig.told == []
    rig.engine.stopped = True
    rig.add(b"later", dt=rig.clock.wall_ms() + 60_000)
    rig.step()
    assert rig.told == []
    rig.add(b"now")
    rig.step()
    assert rig.told == ["jobs"]


def test_work_that_will_be_due_soon_is_found_before_it_is(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    other = start_other(rig)
    other.engine.stopped = True
    other.add(b"x", dt=START_MS + 1900)
    other.step()
    rig.step()
    assert rig.scheduler.next_at() == START_MS + 1900
    other.close()


def test_a_job_is_started_by_one_node_only(rig: Rig) -> None:
    rig.memory.put_handler(handler(batch_size=1))
    other = start_other(rig)
    other.add(*(b"x" for _ in range(10)))
    for _ in range(3):
        other.step()
        rig.step()
        rig.clock.advance(1000)
    started = [id_ for node in (rig, other) for flight in node.air for id_ in ids_of(flight)]
    assert len(started) == len(set(started)) == 10
    other.close()


def test_types_beyond_one_page_of_the_scan_are_found_by_the_next_pages(rig: Rig) -> None:
    other = start_other(rig)
    other.engine.stopped = True
    count = 2 * SCAN_TYPES_MAX + 10
    for n in range(count):
        other.add(b"x", type=f"acme/t{n:05}")
    while other.ingester.behind:
        other.step()
    pages = 0
    while len(rig.scheduler.without_handler()) < count:
        rig.step()
        pages += 1
    assert pages == 3
    rig.store.forget_calls()
    rig.step()
    assert "due" not in rig.events
    last = f"t{count - 1:05}"
    rig.memory.put_handler(handler(last))
    rig.step()
    assert [flight.batch.type for flight in rig.air] == [f"acme/{last}"]
    other.close()


def test_a_page_that_the_store_refused_is_looked_at_again(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    other = start_other(rig)
    other.engine.stopped = True
    other.add(b"x")
    other.step()
    rig.store.fail("due")
    assert not rig.try_step()
    rig.step()
    assert len(rig.air) == 1
    other.close()


def test_what_people_set_is_followed_with_the_next_step(rig: Rig) -> None:
    rig.add(b"x")
    rig.step()
    assert rig.air == []
    rig.memory.put_handler(handler())
    rig.step()
    (flight,) = rig.air
    rig.store.forget_calls()
    rig.step()
    assert "control" not in rig.events
    rig.memory.delete_handler("acme", "mail")
    rig.land(flight, Result(102, retry_after_ms=1000))
    rig.clock.advance(2000)
    rig.step()
    assert rig.air == []
    assert rig.scheduler.without_handler() == [TYPE]


def test_what_is_freed_from_dead_nodes_runs_here(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    rig.step()
    dead = start_other(rig)
    dead.add(b"x")
    dead.step()
    assert len(dead.air) == 1
    rig.clock.advance(LEASE_MS)
    rig.step()
    assert rig.engine.counters["freed"] == 1
    (flight,) = rig.air
    assert flight.batch.jobs[0].crashes == 1
    assert "jobs.freed" in names_of(rig)
    dead.land(dead.air[0], 200)
    dead.step()
    assert dead.engine.counters["stale_completions"] == 1
    dead.close()


def test_the_engine_knows_of_freed_jobs_before_a_scan_finds_them(rig: Rig) -> None:
    rig.add(b"x")
    rig.ingest_all()
    rig.memory.claim(TYPE, OTHER, 1, lease_ms=LEASE_MS, bytes_max=9)
    rig.step()
    rig.clock.advance(LEASE_MS)
    rig.store.fail("due")
    assert not rig.try_step()
    assert rig.scheduler.without_handler() == [TYPE]


# Safe.


def test_how_far_the_journal_is_safe_is_told_now_and_then(rig: Rig) -> None:
    rig.add(b"x")
    rig.step()
    assert rig.safe == [rig.writer.end]
    rig.add(b"y")
    rig.step()
    assert len(rig.safe) == 1
    rig.clock.advance(SAFE_EVERY_MS)
    rig.step()
    assert rig.safe[1:] == [rig.writer.end]


def test_it_is_told_at_once_when_somebody_wants_to_know(rig: Rig) -> None:
    rig.step()
    rig.add(b"x")
    rig.engine.want_safe = True
    rig.step()
    assert rig.safe[-1] == rig.writer.end
    assert not rig.engine.want_safe


@pytest.mark.parametrize("how", ["refused", "failed"])
def test_a_barrier_that_could_not_be_made_is_tried_again_in_a_second(rig: Rig, how: str) -> None:
    rig.step()
    rig.add(b"x")
    rig.engine.want_safe = True
    rig.store.safe = how != "refused"
    if how == "failed":
        rig.store.fail("barrier")
    rig.try_step()
    told = len(rig.safe)
    rig.store.safe = True
    rig.step()
    assert len(rig.safe) == told
    rig.clock.advance(1000)
    rig.step()
    assert rig.safe[-1] == rig.writer.end


def test_what_is_not_ingested_is_not_called_safe(rig: Rig) -> None:
    rig.add(*(b"x" for _ in range(INGEST_JOBS_MAX + 1)))
    rig.engine.want_safe = True
    rig.step()
    assert rig.ingester.behind
    assert rig.safe[-1] < rig.writer.end


def test_no_more_is_called_safe_than_was_stored_before_the_barrier(rig: Rig) -> None:
    rig.add(b"x")
    rig.engine.step()
    stored = rig.ingester.position
    rig.store.before = lambda name: name == "barrier" and rig.add(b"y") and None
    rig.engine.want_safe = True
    rig.add(b"z")
    rig.step()
    assert stored < rig.safe[-1] < rig.writer.end


# The thread.


def test_store_trouble_is_shown_and_clears_by_itself(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    with Running(rig) as running:
        running.until(lambda: "barrier" in rig.store.events)
        rig.store.down = True
        rig.engine.wake()
        running.until(lambda: rig.engine.store_error is not None)
        assert "planted" in str(rig.engine.store_error)
        (id_,) = rig.add(b"accepted all the same")
        rig.store.down = False
        running.until(lambda: rig.engine.store_error is None)
        running.until(lambda: rig.memory.job(id_) is not None)
        running.until(lambda: len(rig.air) == 1)
    assert names_of(rig).count("store.unavailable") == 1


def test_a_store_that_is_down_is_tried_again_later_and_later_and_by_chance(rig: Rig) -> None:
    rig.store.down = True
    assert 1.0 < waits_between(rig, "register", 4) < 2.0  # 0.1, 0.2 and 0.4 s, and half of each


def test_settings_are_read_anew_when_the_store_fell_back_and_counts_their_versions_again(
    rig: Rig,
) -> None:
    before = rig.memory.copy()
    rig.memory.put_handler(handler("lost"))
    rig.engine.turn()
    rig.store.inner = before
    before.put_handler(handler())
    assert before.control_version() == 1
    rig.store.fail("control_version")
    rig.add(b"data")
    rig.engine.turn()
    assert rig.air == []
    rig.engine.turn()
    assert len(rig.air) == 1


def test_after_an_outage_jobs_are_given_back_that_the_node_does_not_know_to_hold(
    rig: Rig,
) -> None:
    """The answer to a claim got lost: nobody runs the job."""
    rig.engine.stopped = True
    rig.memory.put_handler(handler())
    (id_,) = rig.add(b"x")
    rig.step()
    rig.memory.claim(TYPE, NODE, 1, lease_ms=LEASE_MS, bytes_max=9)
    rig.engine.stopped = False
    rig.step()
    assert rig.air == []
    rig.store.down = True
    with Running(rig) as running:
        running.until(lambda: rig.engine.store_error is not None)
        rig.store.down = False
        running.until(lambda: len(rig.air) == 1)
    (job,) = rig.air[0].batch.jobs
    assert (job.id, job.attempt, job.crashes) == (id_, 2, 0)
    assert names_of(rig).count("jobs.released") == 1


def test_a_wake_ends_the_wait(rig: Rig) -> None:
    rig.memory.put_handler(handler())
    with Running(rig) as running:
        running.until(lambda: rig.events[-1:] == ["barrier"])
        began = time.monotonic()
        for _ in range(5):
            rig.add(b"x")
            rig.engine.wake()
            running.until(lambda: len(rig.air) == 1)
            flight = rig.air[0]
            rig.land(flight, 200)
            running.until(lambda: rig.counts()[1] == 0 and not rig.dispatcher.flights)
        assert time.monotonic() - began < 0.9  # one wait is a second


def test_what_is_accepted_right_after_a_small_ingest_comes_in_right_after_it(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(gather_ms=5)
    with Running(rig) as running:
        running.until(lambda: rig.events[-1:] == ["barrier"])
        began = time.monotonic()
        for _ in range(5):
            for line in (b"first", b"while more is waited for"):
                rig.add(line)
                rig.engine.accepted()
                rig.clock.advance(2)
                running.until(lambda: not rig.ingester.behind or rig.clock.advance(1))
            rig.clock.advance(5)
        assert time.monotonic() - began < 0.9  # one wait is a second


def waits_between(rig: Rig, name: str, times: int) -> float:
    """Run until the engine has called the store's `name` so often; return how long it took."""
    count = 0

    def count_calls(called: str) -> None:
        nonlocal count
        if called == name:
            count += 1
            if count == times:
                rig.engine.end()

    rig.store.before = count_calls
    began = time.monotonic()
    rig.engine.run()
    return time.monotonic() - began


@pytest.mark.parametrize("why", ["stopped", "draining"])
def test_an_engine_that_starts_nothing_does_not_spin_for_what_is_due(rig: Rig, why: str) -> None:
    rig.memory.put_handler(handler())
    rig.add(b"x", dt=START_MS + 100)
    rig.step()
    rig.clock.advance(200)
    if why == "stopped":
        rig.engine.stopped = True
    else:
        rig.engine.drain()
    assert waits_between(rig, "control_version", 2) > 0.5


def test_the_pages_of_one_scan_follow_each_other_soon(rig: Rig) -> None:
    for n in range(3 * SCAN_TYPES_MAX + 1):
        rig.add(b"x", type=f"acme/t{n:05}")
    rig.ingest_all()
    assert waits_between(rig, "due", 4) < 0.9


def test_a_bug_ends_the_thread_and_is_not_taken_for_store_trouble(rig: Rig) -> None:
    def bug(name: str) -> None:
        if name == "due":
            raise ZeroDivisionError

    rig.store.before = bug
    with pytest.raises(ZeroDivisionError):
        rig.engine.run()


def test_facts_say_what_runs_and_how_long_the_oldest_waits(rig: Rig) -> None:
    rig.launch(b"a", b"b", b"c", batch_size=2, concurrency=1)
    rig.clock.advance(3000)
    rig.step()
    facts = rig.engine.facts()
    assert (facts.running_batches, facts.running_jobs) == (1, 2)
    assert facts.oldest_waiting_ms == 3000
    rig.land(rig.air[0], 200)
    rig.step()
    assert rig.engine.facts().running_jobs == 1


def test_damage_in_the_journal_is_logged(rig: Rig) -> None:
    rig.add(b"good")
    rig.add(b"rotten")
    (path,) = rig.segment_files()
    path.write_bytes(path.read_bytes().replace(b"rotten", b"ROTTEN"))
    rig.step()
    rig.step()
    assert names_of(rig).count("journal.damaged") == 1


def test_nothing_of_a_job_s_data_is_logged(rig: Rig, tmp_path: Path) -> None:
    (flight,) = rig.launch(b"s3cret")
    rig.land(flight, Result(500, b"s3cret", "s3cret"), output=b"s3cret")
    rig.step()
    assert "s3cret" not in rig.written.getvalue()
    assert events_of(rig)[-1]["count"] == 1


def test_an_unavailable_store_leaves_the_step_at_the_first_call(rig: Rig) -> None:
    rig.store.down = True
    with pytest.raises(StoreUnavailable):
        rig.step()
    assert rig.air == []
