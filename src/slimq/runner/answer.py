"""A handler's answer becomes results: one for each job, whatever was answered."""

from __future__ import annotations

from typing import NamedTuple

from slimq.core import status
from slimq.core.job import Result
from slimq.core.limits import ERROR_MAX, OUTPUT_TAIL_MAX
from slimq.core.lines import ChildLine, Reply, ResultLine, parse_alike, parse_reply, split_lines

_SHOWN_MAX = 120  # bytes of a foreign line that an error text quotes


class Answer(NamedTuple):
    """`results` has one entry for each job; `missing` are the indexes of those that the
    handler gave no readable result for (NO_RESULT, with an error text that says why).
    `children` is empty when nothing but results was said."""

    results: list[Result]
    missing: list[int]
    children: list[list[ChildLine]]
    log: bytes


def read_answer(output: bytes, count: int, log: bytes = b"") -> Answer:
    """Read the result lines of a batch of `count` jobs; `log` is what else it said."""
    alike = parse_alike(output, count)
    if alike is not None:
        return Answer(same_for_all(count, _result(alike)), [], [], _tail(log))
    reply = parse_reply(output, count)
    missing = [index for index, line in enumerate(reply.results) if line is None]
    results = [_result(line) for line in reply.results]
    if missing:
        _explain(results, missing, output)
    return Answer(results, missing, reply.children, log_of(reply, log))


def _result(line: ResultLine | None) -> Result:
    return Result(status.NO_RESULT) if line is None else Result(line.status, line.text)


def _explain(results: list[Result], missing: list[int], output: bytes) -> None:
    said = [line for line in split_lines(output) if line[:1] != b"#"]
    for index in missing:
        if index < len(said):
            error = f"malformed result line: {quote(said[index])}"
        else:
            error = "no result line"
        results[index] = Result(status.NO_RESULT, error=error)


def log_of(reply: Reply, log: bytes) -> bytes:
    """Return the tail of all that a batch said beside its results, and what was ignored."""
    parts = [line + b"\n" for line in reply.log]
    parts.append(_tail(log))
    if reply.extra:
        parts.append(b"slimq: ignored %d result lines beyond the last job\n" % reply.extra)
    if reply.bad_children:
        parts.append(b"slimq: ignored %d malformed #J: lines\n" % reply.bad_children)
    return b"".join(parts)[-OUTPUT_TAIL_MAX:]


def _tail(log: bytes) -> bytes:
    """Return the end of a log, in whole lines at its end."""
    return (log if not log or log.endswith(b"\n") else log + b"\n")[-OUTPUT_TAIL_MAX:]


def quote(foreign: bytes) -> str:
    """Return foreign bytes as printable text in quotes, shortened."""
    text = repr(foreign[:_SHOWN_MAX].decode("utf-8", "backslashreplace"))
    return text + " ..." if len(foreign) > _SHOWN_MAX else text


def bounded(error: str) -> str:
    """Return an error text of at most ERROR_MAX bytes, without anything unprintable."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in error)
    return plain.encode("utf-8", "replace")[:ERROR_MAX].decode("utf-8", "ignore")


def same_for_all(count: int, result: Result) -> list[Result]:
    """Return this result `count` times; each may be replaced by itself."""
    return [result] * count
