"""What a context says is read, whatever it is; nothing of it is trusted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slimq.core import status
from slimq.core.handler import Options
from slimq.core.job import Result
from slimq.core.limits import CHILDREN_MAX, ERROR_MAX, RESULT_MAX
from slimq.core.lines import ChildLine
from slimq.runner.context import Death, Ended
from slimq.runner.exchange import IN_HOOK, IN_JOBS, NOT_TAKEN, Answer
from slimq.runner.function_verdict import judge, read_records
from slimq.runner.host.python_context.answer import AFTER, CHILD, ERROR, RESULT, record

DEATHS = st.one_of(
    st.none(),
    st.builds(
        Death,
        st.integers(-64, 255),
        st.sampled_from(["", "timeout", "job_timeout", "output", "protocol", "closed"]),
        st.sampled_from([(), ("memory",), ("memory", "processes"), ("unknown",)]),
    ),
)
RECORDS = st.lists(
    st.builds(record, st.integers(0, 9), st.integers(0, 700), st.binary(max_size=40)), max_size=8
).map(b"".join)


@given(
    st.one_of(RECORDS, st.binary(max_size=60), st.tuples(RECORDS, st.binary()).map(b"".join)),
    st.sampled_from([NOT_TAKEN, IN_HOOK, IN_JOBS, 200]),
    st.booleans(),
    DEATHS,
    st.integers(1, 5),
)
def test_every_answer_and_every_end_gives_every_job_a_result(
    records: bytes, phase: int, stands: bool, death: Death | None, count: int
) -> None:
    ran = judge(Ended(Answer(records, phase, stands), b"log", death), count, Options())
    assert len(ran.results) == count
    assert len(ran.children) in (0, count)
    assert all(status.is_status(result.status) for result in ran.results)
    assert all(len(result.error.encode()) <= ERROR_MAX for result in ran.results)
    assert set(ran.suspects) <= set(range(count))
    assert not ran.suspects or ran.guilty == ran.suspects[0]
    assert not any(result.crashed for result in ran.results) or count == 1


def test_what_stands_before_a_result_belongs_to_its_job() -> None:
    records = [
        record(ERROR, 0, b"broken"),
        record(RESULT, 500, b"trace"),
        record(AFTER, 0, b"1500"),
        record(CHILD, 0, b"bill|x"),
        record(RESULT, 102, b"later"),
        record(RESULT, 200, b"fine"),
        record(CHILD, 0, b"bill|of one that did not end"),
    ]
    said = read_records(b"".join(records), 4)
    assert said.results == [
        Result(500, b"trace", "broken"),
        Result(102, b"later", "", 1500),
        Result(200, b"fine"),
    ]
    assert said.children == [[], [ChildLine("bill", b"x")], []]


def test_texts_and_children_are_bounded_also_when_the_context_did_not() -> None:
    many = record(CHILD, 0, b"bill|") * (CHILDREN_MAX + 1) + record(CHILD, 0, b"not legal|")
    said = read_records(many + record(RESULT, 200, b"x" * (RESULT_MAX + 1)), 1)
    assert len(said.results[0].text) == RESULT_MAX
    assert len(said.children[0]) == CHILDREN_MAX
    assert said.bad_children == 2
