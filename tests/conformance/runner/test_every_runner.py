"""What every runner does, with real handlers behind it."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runner_kit import ExecBench, FunctionBench, HttpBench, on_loop, run_once

from slimq.core import status
from slimq.core.job import Ran
from slimq.core.limits import ERROR_MAX, LINE_MAX, OUTPUT_TAIL_MAX
from slimq.core.lines import ChildLine
from slimq.core.status import Outcome, outcome_of

Bench = ExecBench | HttpBench | FunctionBench

EVERY_BYTE = bytes(byte for byte in range(256) if byte != 0x0A)
CONTENTS = [
    EVERY_BYTE,
    b"",
    b"\r",
    b"\r\r",
    b" leading",
    b"trailing ",
    b"# no comment",
    b"#J: not|a child",
    b"a|b",
    b"\x00",
    "line\u2028separator\u0085".encode(),
    b"\xff\xfe invalid UTF-8",
    b"200 a result",
    b"",
]


def statuses(ran: Ran) -> list[int]:
    return [result.status for result in ran.results]


def assert_errors(ran: Ran, count: int) -> None:
    assert len(ran.results) == len(ran.children) == count
    for result in ran.results:
        assert outcome_of(result.status) is Outcome.ERROR
        assert result.error
        assert len(result.error.encode()) <= ERROR_MAX
        assert result.error.isprintable()


def assert_digests(ran: Ran, datas: list[bytes]) -> None:
    wanted = [f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode() for data in datas]
    assert [result.text for result in ran.results] == wanted
    assert statuses(ran) == [200] * len(datas)


def test_every_content_arrives_as_it_is(bench: Bench) -> None:
    assert_digests(run_once(bench.runner(), bench.batch("digest", CONTENTS)), CONTENTS)


def test_a_batch_of_empty_lines_arrives(bench: Bench) -> None:
    datas = [b""] * 50
    assert_digests(run_once(bench.runner(), bench.batch("digest", datas)), datas)


def test_a_line_of_the_longest_kind_arrives(bench: Bench) -> None:
    datas = [b"x", b"y" * LINE_MAX, b"z"]
    assert_digests(run_once(bench.runner(), bench.batch("digest", datas)), datas)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.binary().map(lambda data: data.replace(b"\n", b"")), min_size=1, max_size=40))
def test_any_batch_arrives_in_its_order(bench: Bench, datas: list[bytes]) -> None:
    assert_digests(run_once(bench.runner(), bench.batch("digest", datas)), datas)


def test_results_belong_to_their_jobs_in_order(bench: Bench) -> None:
    datas = [b"job %d" % index for index in range(100)]
    ran = run_once(bench.runner(), bench.batch("order", datas))
    assert [result.text for result in ran.results] == datas


def test_each_status_is_taken_as_said(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("statuses", [b""] * 4))
    assert statuses(ran) == [102, 200, 422, 503]
    assert [result.text for result in ran.results] == [b"later", b"done", b"no", b"broken"]


def test_garbage_is_an_error_that_quotes_it(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("garbage", [b""] * 4))
    assert_errors(ran, 4)
    assert statuses(ran) == [status.NO_RESULT] * 4
    assert bench.garbage in ran.results[1].error
    assert not ran.died


def test_one_malformed_line_hurts_its_job_alone(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("one_bad", [b""] * 5))
    assert statuses(ran) == [200, status.NO_RESULT, 200, 200, 200]


def test_missing_lines_hurt_the_last_jobs_alone(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("too_few", [b""] * 5))
    assert statuses(ran) == [200, 200, 200, 200, status.NO_RESULT]
    assert ran.results[4].error == bench.no_result
    assert not ran.died


def test_no_answer_at_all_is_an_error_of_every_job(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("nothing", [b""] * 3))
    assert_errors(ran, 3)
    assert statuses(ran) == [status.NO_RESULT] * 3


def test_lines_beyond_the_last_job_are_ignored_and_noted(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("too_many", [b""] * 2))
    assert statuses(ran) == [200, 200]
    assert b"ignored 3 result lines" in ran.output


def test_children_belong_to_the_job_whose_result_follows(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("children", [b""] * 2))
    assert statuses(ran) == [200, 200]
    assert ran.children[0] == [ChildLine("bill", b"for 0")]
    assert ran.children[1] == [ChildLine("bill", b""), ChildLine("log", b"end")]
    assert b"# a log line" in ran.output
    assert bench.bad_child in ran.output


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_handler_that_never_ends_is_stopped_at_its_timeout(bench: Bench, behaviour: str) -> None:
    started = time.monotonic()
    ran = run_once(bench.runner(), bench.batch(behaviour, [b""], timeout="300ms"))
    assert 0.25 < time.monotonic() - started < 3
    assert_errors(ran, 1)
    assert statuses(ran) == [status.TIMEOUT]
    assert not ran.results[0].crashed


def test_a_handler_that_dies_is_an_error_of_its_job(bench: Bench) -> None:
    assert_errors(run_once(bench.runner(), bench.batch("crash", [b""])), 1)


def test_an_endless_answer_is_cut_off(bench: Bench) -> None:
    ran = run_once(bench.runner(), bench.batch("flood", [b""] * 3, timeout="1m"))
    assert len(ran.results) == 3
    assert len(ran.output) <= OUTPUT_TAIL_MAX


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_cancelling_a_run_leaves_nothing(bench: Bench, behaviour: str) -> None:
    async def cancelled() -> None:
        runner = bench.runner()
        task = asyncio.create_task(runner.run(bench.batch(behaviour, [b""], timeout="1h")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await runner.close()

    on_loop(cancelled)  # the fixture looks for descriptors and children
    if isinstance(bench, HttpBench):
        assert bench.target.closed.acquire(timeout=5)


def test_a_cancelled_run_harms_no_other(bench: Bench) -> None:
    async def both() -> Ran:
        runner = bench.runner()
        doomed = asyncio.create_task(runner.run(bench.batch("hang", [b""], timeout="1h")))
        other = asyncio.create_task(runner.run(bench.batch("digest", [b"a"])))
        await asyncio.sleep(0.02)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        ran = await other
        await runner.run(bench.batch("digest", [b"a"]))
        await runner.close()
        return ran

    assert_digests(on_loop(both), [b"a"])


def test_many_runs_at_a_time_keep_their_answers_apart(bench: Bench) -> None:
    async def many() -> list[Ran]:
        runner = bench.runner()
        batches = [bench.batch("digest", [b"%d" % index]) for index in range(40)]
        done = await asyncio.gather(*map(runner.run, batches))
        await runner.close()
        return done

    for index, ran in enumerate(on_loop(many)):
        assert_digests(ran, [b"%d" % index])
