"""From what handlers answer to results: pure, so hypothesis may try everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core import status
from slimq.core.handler import Options
from slimq.core.job import Ran
from slimq.core.limits import ERROR_MAX, LINE_MAX, OUTPUT_TAIL_MAX, RESULT_MAX
from slimq.core.lines import ChildLine
from slimq.runner import command_verdict, http_verdict
from slimq.runner.answer import bounded, quote, read_answer
from slimq.runner.caller import Response
from slimq.runner.command_run import Ended
from slimq.runner.http_verdict import parse_retry_after

lines = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"200", b"200 ok", b"102 later", b"404", b"500 x", b"#", b"#J: a|b", b"#J: !", b""]
    ),
)
outputs = st.lists(lines, max_size=12).map(b"\n".join)
counts = st.integers(1, 6)


def assert_whole(ran: Ran, count: int) -> None:
    assert len(ran.results) == count
    assert len(ran.children) in (0, count)
    assert len(ran.output) <= OUTPUT_TAIL_MAX
    for result in ran.results:
        assert status.is_status(result.status)
        assert len(result.text) <= RESULT_MAX
        assert len(result.error.encode()) <= ERROR_MAX
        assert result.error.isprintable()
        assert count == 1 or not result.crashed
    assert bool(ran.suspects) is (ran.died and count > 1)
    assert all(ran.results[index].status >= 500 for index in ran.suspects)
    assert not any(ran.children[index] for index in ran.suspects if ran.children)


@given(
    outputs,
    outputs,
    st.integers(-64, 255),
    st.sampled_from([(False, False), (True, False), (False, True)]),
    counts,
    st.sampled_from(["lines", "exit"]),
)
def test_every_end_of_a_command_gives_every_job_a_result(
    stdout: bytes, stderr: bytes, code: int, how: tuple[bool, bool], count: int, result: Any
) -> None:
    options = Options(result=result, retry_on=frozenset({3}), fail_on=frozenset({4}))
    ended = Ended(code, stdout, stderr, *how)
    ran = command_verdict.judge(ended, count, options)
    assert_whole(ran, count)
    whole = code == 0 and not any(how)
    assert not (whole and ran.died)


@given(
    st.integers(0, 999),
    outputs,
    st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["102", "404", "500", "200"])),
    st.one_of(st.none(), st.text(max_size=30), st.integers(0, 10**12).map(str)),
    counts,
    st.booleans(),
)
def test_every_answer_gives_every_job_a_result(
    code: int, body: bytes, said: str | None, retry: str | None, count: int, single: bool
) -> None:
    count = 1 if single else count
    response = Response(code, body, said, retry, error="" if code else "oops")
    ran = http_verdict.judge(response, count, single, Options(), now_ms=0)
    assert_whole(ran, count)
    assert not ran.died


def test_a_line_that_was_cut_by_death_is_no_result() -> None:
    killed = Ended(-9, b"200 one\n200 tw", b"")
    ran = command_verdict.judge(killed, 2, Options())
    assert ran.suspects == [1]
    exited = Ended(0, b"200 one\n200 two", b"")
    assert command_verdict.judge(exited, 2, Options()).results[1].text == b"two"


def test_a_signal_without_a_name_is_named_by_its_number() -> None:
    ran = command_verdict.judge(Ended(-40, b"", b""), 1, Options())
    assert ran.results[0].error == "killed by signal 40"


def test_the_log_comes_before_stderr_and_what_was_ignored_behind() -> None:
    answer = read_answer(b"# one\n200\n#J: !\n200\n", 1, b"warning")
    assert answer.log.splitlines() == [
        b"# one",
        b"warning",
        b"slimq: ignored 1 result lines beyond the last job",
        b"slimq: ignored 1 malformed #J: lines",
    ]


def test_a_child_with_more_data_than_a_job_may_have_is_ignored_and_the_log_says_so() -> None:
    fits = b"x" * LINE_MAX
    answer = read_answer(b"#J: next|%b\n#J: next|%by\n200\n" % (fits, fits), 1)
    assert answer.children == [[ChildLine("next", fits)]]
    assert answer.log == b"slimq: ignored 1 malformed #J: lines\n"


@given(lines, counts, st.sampled_from([b"", b"a log", b"a log\n"]))
def test_the_same_line_for_all_is_read_as_line_by_line(line: bytes, count: int, log: bytes) -> None:
    output = line.partition(b"\n")[0] + b"\n"
    alike = read_answer(output * count, count, log)
    apart = read_answer(output * count + b"# and a comment\n", count, log)
    assert (alike.results, alike.missing) == (apart.results, apart.missing)
    assert apart.log.replace(b"# and a comment\n", b"") == alike.log
    assert alike.children in ([], apart.children)


@given(st.binary())
def test_a_foreign_line_is_quoted_short_and_printable(line: bytes) -> None:
    assert quote(line).isprintable()
    assert len(quote(line).encode()) <= ERROR_MAX // 2


@given(st.text())
def test_an_error_text_is_bounded_and_printable(text: str) -> None:
    assert bounded(text * 50).isprintable()
    assert len(bounded(text * 5000).encode()) <= ERROR_MAX


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("0", 0),
        (" 7 ", 7_000),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37_000),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37_000),
        ("Sun Nov  6 08:49:37 1994", 37_000),
        ("Sun, 06 Nov 1994 08:48:59 GMT", 0),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 37_000),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 30, None),
        ("", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str, wanted: int | None) -> None:
    assert parse_retry_after(value, now_ms=784_111_740_000) == wanted  # 1994-11-06 08:49:00


@given(st.text())
def test_no_retry_after_raises_or_is_negative(value: str) -> None:
    parsed = parse_retry_after(value, now_ms=0)
    assert parsed is None or parsed >= 0
