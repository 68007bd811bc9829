"""Flights: a died batch is split until the guilty job is alone, and nothing is left over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from engine_kit import FakeClock, batch_of, child
from hypothesis import given
from hypothesis import strategies as st

from slimq.core import status as statuses
from slimq.core.handler import Handler
from slimq.core.job import Batch, Ran, Result
from slimq.core.limits import LEASE_MARGIN_MS, LEASE_MS, SPLIT_PROBES
from slimq.runner.base import Runner
from slimq.runner.flight import Flight, Flights

Answer = Callable[[Batch], Ran]


class AnsweringRunner:
    """Answers at once, with what it is told."""

    lang = "exec"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.batches: list[Batch] = []

    def check(self, handler: Handler) -> None:
        pass

    async def run(self, batch: Batch) -> Ran:
        self.batches.append(batch)
        await asyncio.sleep(0)
        return self.answer(batch)

    async def close(self) -> None:
        pass


class HangingRunner(AnsweringRunner):
    """Runs until it is cancelled, and then needs a moment to end."""

    def __init__(self) -> None:
        super().__init__(lambda batch: Ran([]))
        self.started = asyncio.Event()
        self.ended = 0

    async def run(self, batch: Batch) -> Ran:
        self.batches.append(batch)
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended += 1
        raise AssertionError("it hangs")


class Yard:
    """Flights on the running loop, and those that landed, in order."""

    def __init__(self, runner: Runner) -> None:
        self.clock = FakeClock()
        self.over: list[Flight] = []
        self.flights = Flights({"exec": runner}, self.clock, self.over.append)

    def flight(self, count: int, lease_ms: int = LEASE_MS) -> Flight:
        return Flight(batch_of(count), 0, self.clock.boot_ms() + lease_ms)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    uvloop.run(bounded())


def fly(runner: Runner, count: int) -> Ran:
    """Run one flight of `count` jobs to its end."""
    rans: list[Ran | None] = []

    async def work() -> None:
        yard = Yard(runner)
        flight = yard.flight(count)
        yard.flights.start([flight])
        await yard.flights.idle()
        assert yard.over == [flight]
        rans.append(flight.ran)

    run(work())
    (ran,) = rans
    assert ran is not None
    return ran


def ok(batch: Batch) -> Ran:
    children = [[child("x", job.data)] for job in batch.jobs]
    return Ran([Result(200, job.data) for job in batch.jobs], children, b"log;")


def killed_by(guilty: set[bytes]) -> Answer:
    """Answer as a command does that dies at the first guilty job: those before it have
    their results, the others are suspects; one job alone is guilty or innocent."""

    def answer(batch: Batch) -> Ran:
        places = [n for n, job in enumerate(batch.jobs) if job.data in guilty]
        if not places:
            return ok(batch)
        if len(batch.jobs) == 1:
            result = Result(statuses.CRASHED, error="died", crashed=True)
            return Ran([result], [[]], died=True)
        suspects = list(range(places[0], len(batch.jobs)))
        ran = ok(batch)
        for index in suspects:
            ran.results[index] = Result(statuses.ERROR, error="provisional")
            ran.children[index] = []
        ran.died, ran.suspects = True, suspects
        return ran

    return answer


def dead_at_once(guilty: set[bytes]) -> Answer:
    """Answer as a command does whose context takes all results with it."""
    inner = killed_by(guilty)

    def answer(batch: Batch) -> Ran:
        ran = inner(batch)
        if ran.suspects:
            ran.suspects = list(range(len(batch.jobs)))
            ran.results = [Result(statuses.ERROR) for _ in batch.jobs]
            ran.children = []
        return ran

    return answer


def most_runs(count: int, guilty: int = 1) -> int:
    return 1 + SPLIT_PROBES + guilty * 2 * math.ceil(math.log2(max(count, 2)))


def check(ran: Ran, guilty: set[bytes], count: int) -> None:
    """Compare what became of each job with what should have."""
    for index in range(count):
        data = b"%d" % index
        result = ran.results[index]
        if data in guilty:
            assert (result.status, result.crashed) == (statuses.CRASHED, True)
        else:
            assert (result.status, result.text) == (200, data)
            assert [line.data for line in ran.children[index]] == [data]


def test_results_of_a_run_are_those_of_the_flight() -> None:
    runner = AnsweringRunner(ok)
    ran = fly(runner, 5)
    check(ran, set(), 5)
    assert len(runner.batches) == 1
    assert ran.output == b"log;"


@pytest.mark.parametrize("count", [2, 3, 8, 100, 1000])
@pytest.mark.parametrize("answer", [killed_by, dead_at_once])
def test_a_died_batch_is_split_until_the_guilty_job_is_alone(
    count: int, answer: Callable[[set[bytes]], Answer]
) -> None:
    for place in {0, 1, count // 2, count - 1}:
        guilty = {b"%d" % place}
        runner = AnsweringRunner(answer(guilty))
        check(fly(runner, count), guilty, count)
        assert len(runner.batches) <= most_runs(count)


@given(st.integers(1, 60), st.sets(st.integers(0, 59), max_size=5), st.booleans())
def test_whoever_is_guilty_innocents_keep_their_results(
    count: int, places: set[int], at_once: bool
) -> None:
    guilty = {b"%d" % place for place in places if place < count}
    runner = AnsweringRunner((dead_at_once if at_once else killed_by)(guilty))
    check(fly(runner, count), guilty, count)
    assert len(runner.batches) <= most_runs(count, len(guilty))


def broken(result: Result) -> Answer:
    """Answer as a command does that dies with any job, in the same way."""

    def answer(batch: Batch) -> Ran:
        alone = len(batch.jobs) == 1
        code = result.status if alone else statuses.ERROR
        results = [Result(code, error=result.error) for _ in batch.jobs]
        return Ran(results, died=True, suspects=[] if alone else list(range(len(results))))

    return answer


def test_a_command_that_dies_with_every_job_is_not_run_for_each_of_them() -> None:
    runner = AnsweringRunner(broken(Result(statuses.ERROR, error="exit code 1")))
    ran = fly(runner, 1000)
    assert len(runner.batches) == 1 + SPLIT_PROBES
    assert [result.status for result in ran.results] == [statuses.ERROR] * 1000
    assert not any(result.crashed for result in ran.results)
    assert ran.results[1].error == "exit code 1 (as did 8 jobs of this batch alone)"


def test_a_command_that_puts_off_every_job_alone_puts_off_all_and_costs_no_failure() -> None:
    runner = AnsweringRunner(broken(Result(statuses.RETRY_LATER, error="exit code 75")))
    ran = fly(runner, 1000)
    assert len(runner.batches) == 1 + SPLIT_PROBES
    assert [result.status for result in ran.results] == [statuses.RETRY_LATER] * 1000


def test_a_command_that_judges_jobs_only_when_they_are_alone_judges_each() -> None:
    runner = AnsweringRunner(broken(Result(statuses.FAILED, error="exit code 65")))
    assert [result.status for result in fly(runner, 100).results] == [statuses.FAILED] * 100


def test_one_innocent_among_the_jobs_tried_alone_is_enough_to_try_all() -> None:
    guilty = {b"%d" % n for n in range(100)} - {b"50", b"51"}
    check(fly(AnsweringRunner(dead_at_once(guilty)), 100), guilty, 100)


def test_jobs_that_have_their_result_are_not_run_again() -> None:
    runner = AnsweringRunner(killed_by({b"6"}))
    fly(runner, 8)
    runs = [[job.data for job in batch.jobs] for batch in runner.batches]
    assert runs == [[b"%d" % n for n in range(8)], [b"6"], [b"7"]]


def test_a_split_batch_keeps_its_type_handler_and_attempts() -> None:
    runner = AnsweringRunner(killed_by({b"0"}))
    fly(runner, 4)
    first = runner.batches[0]
    for batch in runner.batches[1:]:
        assert (batch.type, batch.handler) == (first.type, first.handler)
        assert all(job in first.jobs for job in batch.jobs)


def test_the_output_of_all_runs_is_kept_and_bounded() -> None:
    def answer(batch: Batch) -> Ran:
        ran = killed_by({b"1"})(batch)
        ran.output = b"%d;" % len(batch.jobs) * 20_000
        return ran

    ran = fly(AnsweringRunner(answer), 4)
    assert len(ran.output) == 65_536
    assert ran.output.endswith(b"1;")


def test_a_runner_that_raises_gives_an_error_to_every_job() -> None:
    def answer(batch: Batch) -> Ran:
        raise RuntimeError("secret payload")

    ran = fly(AnsweringRunner(answer), 3)
    assert [result.status for result in ran.results] == [statuses.ERROR] * 3
    assert {result.error for result in ran.results} == {"bug in the runner: RuntimeError"}


def test_a_runner_that_raises_in_a_half_spoils_only_that_half() -> None:
    def answer(batch: Batch) -> Ran:
        if len(batch.jobs) == 1:
            raise RuntimeError
        return killed_by({b"0"})(batch)

    ran = fly(AnsweringRunner(answer), 4)
    assert [result.status for result in ran.results] == [500, 500, 200, 200]


def test_a_handler_whose_lang_has_no_runner_gives_an_error() -> None:
    async def work() -> None:
        over: list[Flight] = []
        clock = FakeClock()
        flights = Flights({}, clock, over.append)
        flights.start([Flight(batch_of(2), 0, clock.boot_ms() + LEASE_MS)])
        await flights.idle()
        assert over[0].ran is not None
        assert [result.status for result in over[0].ran.results] == [statuses.ERROR] * 2

    run(work())


# Killing.


def test_a_killed_flight_lands_without_results_when_its_run_has_ended() -> None:
    async def work() -> None:
        runner = HangingRunner()
        yard = Yard(runner)
        flight = yard.flight(3)
        yard.flights.start([flight])
        await runner.started.wait()
        yard.flights.kill([flight])
        assert yard.over == []
        await yard.flights.idle()
        assert (yard.over, flight.ran, runner.ended) == ([flight], None, 1)

    run(work())


def test_a_flight_that_is_killed_before_its_first_step_lands_too() -> None:
    async def work() -> None:
        runner = HangingRunner()
        yard = Yard(runner)
        flights = [yard.flight(1) for _ in range(3)]
        yard.flights.start(flights)
        yard.flights.kill(flights)
        await yard.flights.idle()
        assert yard.over == flights
        assert all(flight.ran is None for flight in flights)
        assert runner.batches == []

    run(work())


def test_a_flight_whose_lease_ended_before_its_start_is_not_begun() -> None:
    async def work() -> None:
        runner = AnsweringRunner(ok)
        yard = Yard(runner)
        late, soon = yard.flight(1, LEASE_MARGIN_MS - 1), yard.flight(1, LEASE_MARGIN_MS)
        yard.flights.start([late, soon])
        await yard.flights.idle()
        assert yard.over == [late, soon]
        assert late.ran is None
        assert runner.batches == [soon.batch]

    run(work())


class DeafRunner(HangingRunner):
    """Takes no notice of being killed, and blames all of its jobs."""

    async def run(self, batch: Batch) -> Ran:
        try:
            return await super().run(batch)
        except asyncio.CancelledError:
            results = [Result(statuses.ERROR) for _ in batch.jobs]
            return Ran(results, died=True, suspects=list(range(len(batch.jobs))))


def test_a_killed_batch_is_not_run_in_parts_although_its_runner_took_no_notice() -> None:
    async def work() -> None:
        runner = DeafRunner()
        yard = Yard(runner)
        flight = yard.flight(3)
        yard.flights.start([flight])
        await runner.started.wait()
        yard.flights.kill([flight])
        await yard.flights.idle()
        assert (yard.over, flight.ran, len(runner.batches)) == ([flight], None, 1)

    run(work())


def test_killing_a_flight_that_landed_does_nothing() -> None:
    async def work() -> None:
        yard = Yard(AnsweringRunner(ok))
        flight = yard.flight(1)
        yard.flights.start([flight])
        await yard.flights.idle()
        yard.flights.kill([flight])
        yard.flights.watch()
        await asyncio.sleep(0)
        assert yard.over == [flight]
        assert flight.ran is not None

    run(work())


def test_a_run_is_killed_before_its_lease_ends_and_not_much_earlier() -> None:
    async def work() -> None:
        runner = HangingRunner()
        yard = Yard(runner)
        flight = yard.flight(1)
        renewed = yard.flight(1)
        yard.flights.start([flight, renewed])
        await runner.started.wait()
        yard.clock.advance(LEASE_MS - LEASE_MARGIN_MS)
        renewed.deadline_ms += LEASE_MS
        yard.flights.watch()
        assert flight.task is not None
        assert renewed.task is not None
        assert flight.task.cancelling() == 0
        yard.clock.advance(1)
        yard.flights.watch()
        assert renewed.task.cancelling() == 0
        assert flight.task.cancelling() == 1
        await asyncio.wait([flight.task])
        assert yard.over == [flight]
        assert yard.clock.boot_ms() < flight.deadline_ms
        yard.flights.kill_all()
        await yard.flights.idle()

    run(work())


def test_kill_all_and_idle_leave_nothing() -> None:
    async def work() -> None:
        runner = HangingRunner()
        yard = Yard(runner)
        flights = [yard.flight(2) for _ in range(20)]
        yard.flights.start(flights[:15])
        await runner.started.wait()
        yard.flights.start(flights[15:])
        yard.flights.kill_all()
        await yard.flights.idle()
        assert sorted(map(id, yard.over)) == sorted(map(id, flights))
        assert len(runner.batches) == runner.ended
        assert len(asyncio.all_tasks()) == 1
        await yard.flights.idle()

    run(work())


def test_a_kill_between_the_halves_of_a_died_batch_ends_all_of_it() -> None:
    async def work() -> None:
        again = asyncio.Event()
        hanging = HangingRunner()

        class Dying(AnsweringRunner):
            async def run(self, batch: Batch) -> Ran:
                if len(batch.jobs) == 4:
                    return killed_by({b"0"})(batch)
                again.set()
                return await hanging.run(batch)

        yard = Yard(Dying(ok))
        flight = yard.flight(4)
        yard.flights.start([flight])
        await again.wait()
        yard.flights.kill([flight])
        await yard.flights.idle()
        assert (flight.ran, len(hanging.batches)) == (None, 1)

    run(work())


def test_idle_waits_for_flights_that_start_meanwhile() -> None:
    async def work() -> None:
        yard = Yard(AnsweringRunner(ok))
        first, second = yard.flight(1), yard.flight(1)
        yard.flights.start([first])
        asyncio.get_running_loop().call_soon(yard.flights.start, [second])
        await yard.flights.idle()
        assert yard.over == [first, second]

    run(work())
