r"""Lines in and lines out.

In: every newline-terminated line of a body is one job; a last line without newline
counts if it is not empty. Only b"\n" ends a line; everything else is payload.

Out, from a handler::

    <status>[ <text>]         result of the next job of the batch
    #J: <jobtype>|<data>      a new job of the same client
    #...                      a log line
"""

from __future__ import annotations

from typing import NamedTuple

from slimq.core import status as statuses
from slimq.core.jobtype import is_name
from slimq.core.limits import CHILDREN_MAX, LINE_MAX, RESULT_MAX

CHILD_MARK = b"#J:"
_CODES = {b"%d" % code: code for code in range(1000) if statuses.is_status(code)}


def split_lines(body: bytes) -> list[bytes]:
    """Return the lines of a body, without their newlines."""
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


class ResultLine(NamedTuple):
    """What a handler said of one job: `status` and `text`."""

    status: int
    text: bytes


class ChildLine(NamedTuple):
    """A job that a handler added by printing it."""

    jobtype: str
    data: bytes


def parse_result(line: bytes) -> ResultLine | None:
    """Return the result that `line` says, or None when it is malformed."""
    status = _CODES.get(line[:3])
    if status is None:
        return None
    text = line[3:]
    if not text:
        return ResultLine(status, b"")
    if text[:1] not in b" \r":
        return None
    return ResultLine(status, text.strip(b" \r")[:RESULT_MAX])


def parse_child(line: bytes) -> ChildLine | None:
    """Return the new job that a ``#J:`` line says, or None when it is malformed, or when
    its data is longer than that of any job may be."""
    jobtype, bar, data = line[len(CHILD_MARK) :].lstrip(b" ").partition(b"|")
    name = jobtype.decode("ascii", "replace").strip()
    if not bar or not is_name(name) or len(data) > LINE_MAX:
        return None
    return ChildLine(name, data)


class Reply(NamedTuple):
    """A handler's answer, parsed: for each job its result (None: missing or malformed)
    and the jobs it added; `log` holds the lines that are neither; `extra` counts result
    lines beyond the last job; `bad_children` counts ``#J:`` lines that are not jobs."""

    results: list[ResultLine | None]
    children: list[list[ChildLine]]
    log: list[bytes]
    extra: int
    bad_children: int


def parse_alike(output: bytes, count: int) -> ResultLine | None:
    """Return the result of each of `count` (at least 1) jobs when a handler answered the same
    line for all of them and nothing else. It need not be taken apart."""
    line = output[: output.find(b"\n") + 1]
    if len(line) * count != len(output) or line[:1] == b"#" or output != line * count:
        return None
    return parse_result(line[:-1])


def parse_reply(output: bytes, count: int) -> Reply:
    """Parse what a handler answered to a batch of `count` (at least 1) jobs.

    A ``#J:`` line belongs to the job whose result line follows it; behind the last
    result line, to the last job. No line of it is trusted: malformed ones are counted.
    """
    results: list[ResultLine | None] = []
    children: list[list[ChildLine]] = [[] for _ in range(count)]
    log: list[bytes] = []
    extra = bad_children = 0
    for line in split_lines(output):
        if line[:1] != b"#":
            if len(results) < count:
                results.append(parse_result(line))
            else:
                extra += 1
        elif line.startswith(CHILD_MARK):
            owner = children[min(len(results), count - 1)]
            child = parse_child(line)
            if child is None or len(owner) >= CHILDREN_MAX:
                bad_children += 1
            else:
                owner.append(child)
        else:
            log.append(line)
    results += [None] * (count - len(results))
    return Reply(results, children, log, extra, bad_children)
