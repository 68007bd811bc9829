"""What a context said, and how it ended, becomes the results of a batch. Pure.

=====================  ===========================================================
done                   each result counts; a job without one is NO_RESULT
a hook failed          RETRY for every job that has no result, or was OK: what
                       `after_batch` did not complete is not done
died in a hook         the same
what ran them died     as below, and the context is well: an instance of a module
died in a job          the results before it stand, unless an `after_batch` was to
                       come; the job is the first of the suspects, and guilty
                       alone when it is the only one
=====================  ===========================================================
"""

from __future__ import annotations

import signal
from struct import Struct, error
from typing import NamedTuple

from slimq.core import status
from slimq.core.handler import Options
from slimq.core.job import Ran, Result
from slimq.core.limits import CHILDREN_MAX, ERROR_MAX, LOG_MAX, OUTPUT_TAIL_MAX, RESULT_MAX
from slimq.core.lines import CHILD_MARK, ChildLine, parse_child
from slimq.core.size import format_bytes
from slimq.core.status import Outcome, is_status, outcome_of
from slimq.runner.answer import bounded, same_for_all
from slimq.runner.context import Death, Ended
from slimq.runner.exchange import IN_JOBS

_RECORD = Struct("<BHI")
_RESULT, _ERROR, _AFTER, _CHILD, _HOOK_FAILED, _EXTRA, _DIED = range(1, 8)
_PLAIN_OK = _RECORD.pack(_RESULT, status.OK, 0)
_SIGNAL_EXIT = 128  # what a shell, and bubblewrap, add to the number of a signal


class Said(NamedTuple):
    """The records of an answer: results of the first jobs, in order, with their children;
    `hook` is why a hook failed; `died` is why what ran the jobs died, in a context that did not;
    `extra` counts results beyond the last job."""

    results: list[Result]
    children: list[list[ChildLine]]
    hook: str
    died: str
    extra: int
    bad_children: int


def judge(ended: Ended, count: int, options: Options, *, in_turn: bool = True) -> Ran:
    """Return what became of a batch of `count` jobs. `in_turn` says that each job has its result
    before the next one begins: then it is known who is guilty of a death."""
    said = read_records(ended.answer.records, count)
    log = _log(ended.log, said)
    if said.died and len(said.results) < count:
        end = Result(status.CRASHED, error=said.died)
        return _died_in_job(end, ended.answer.stands, said, count, log, in_turn)
    if ended.death is None:
        ran = _done(said, count, log)
    elif ended.answer.phase == IN_JOBS and len(said.results) < count:
        end = Result(_status_of(ended.death), error=bounded(describe(ended.death, options)))
        return _died_in_job(end, ended.answer.stands, said, count, log, in_turn)
    elif len(said.results) == count and ended.answer.stands:
        ran = _done(said, count, log)
    else:
        reason = describe(ended.death, options)
        return _retried(said._replace(hook=f"{reason}, outside of any job"), count, log)
    return _retried(said, count, log) if said.hook else ran


def read_records(records: bytes, count: int) -> Said:
    """Read as many records as are whole, and results of no more than `count` jobs. Nothing of
    them is trusted."""
    if records == _PLAIN_OK * count:
        return Said([Result(status.OK) for _ in range(count)], [], "", "", 0, 0)
    reader = _Reader(count)
    at, end = 0, len(records)
    while at < end:
        try:
            kind, code, length = _RECORD.unpack_from(records, at)
        except error:
            break
        at += _RECORD.size + length
        if at > end:
            break
        reader.take(kind, code, records[at - length : at])
    return reader.said()


class _Reader:
    """Puts the records of a job together: its result is the last of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._results: list[Result] = []
        self._children: list[list[ChildLine]] = []
        self._hook = self._died = ""
        self._extra = self._bad_children = 0
        self._error = ""
        self._after: int | None = None
        self._added: list[ChildLine] = []

    def take(self, kind: int, code: int, payload: bytes) -> None:
        if kind == _RESULT:
            self._take_result(code, payload)
        elif kind == _ERROR:
            self._error = _text(payload)
        elif kind == _AFTER:
            self._after = int(payload) if payload.isdigit() and len(payload) < 16 else None
        elif kind == _CHILD:
            self._take_child(payload)
        elif kind == _HOOK_FAILED:
            self._hook = _text(payload) or "a hook failed"
        elif kind == _DIED:
            self._died = _text(payload) or "it died"
        elif kind == _EXTRA and payload.isdigit() and len(payload) < 16:
            self._extra = int(payload)

    def said(self) -> Said:
        return Said(
            self._results, self._children, self._hook, self._died, self._extra, self._bad_children
        )

    def _take_result(self, code: int, text: bytes) -> None:
        if len(self._results) < self._count:
            if not is_status(code):
                code, self._error = status.NO_RESULT, f"{code} is no status"
            result = Result(code, text[:RESULT_MAX], self._error, self._after)
            self._results.append(result)
            self._children.append(self._added)
        self._error, self._after, self._added = "", None, []

    def _take_child(self, payload: bytes) -> None:
        child = parse_child(CHILD_MARK + payload)
        if child is None or len(self._added) >= CHILDREN_MAX:
            self._bad_children += 1
        else:
            self._added.append(child)


def _done(said: Said, count: int, log: bytes) -> Ran:
    missing = count - len(said.results)
    results = said.results + same_for_all(missing, Result(status.NO_RESULT, error="no result"))
    return Ran(results, _all_children(said, count), log)


def _retried(said: Said, count: int, log: bytes) -> Ran:
    """A hook costs nobody a failure; what it was to complete is not done."""
    again = Result(status.RETRY_LATER, error=bounded(said.hook))
    results = said.results + same_for_all(count - len(said.results), again)
    for index, result in enumerate(results):
        if outcome_of(result.status) is Outcome.OK:
            results[index] = Result(again.status, error=again.error)
    return Ran(results, _all_children(said, count), log)


def _died_in_job(
    end: Result, stands: bool, said: Said, count: int, log: bytes, in_turn: bool
) -> Ran:
    guilty = len(said.results)
    if count == 1:
        end.crashed = end.status == status.CRASHED
        return Ran([end], [[]], log, died=True)
    kept = guilty if stands else 0
    results = said.results[:kept] + same_for_all(count - kept, end)
    children = _all_children(said, count)[:kept] + [[] for _ in range(count - kept)]
    suspects = [guilty, *(index for index in range(kept, count) if index != guilty)]
    known = guilty if in_turn else None
    return Ran(results, children, log, died=True, suspects=suspects, guilty=known)


def _all_children(said: Said, count: int) -> list[list[ChildLine]]:
    return said.children + [[] for _ in range(count - len(said.children))]


def _status_of(death: Death) -> int:
    if death.killed in ("timeout", "job_timeout"):
        return status.TIMEOUT
    return status.ERROR if death.killed == "output" else status.CRASHED


def describe(death: Death, options: Options, timeout_ms: int = 0) -> str:
    """Return why a context ended, in words that name the limit if one was hit."""
    if death.killed == "timeout":
        return f"timed out after {timeout_ms or options.timeout_ms} ms"
    if death.killed == "job_timeout":
        return f"the job timed out after {options.job_timeout_ms} ms"
    if death.killed == "output":
        return f"killed: more than {format_bytes(LOG_MAX)} of output"
    if death.killed == "protocol":
        return "killed: it closed or misused the descriptors of its context"
    bounds = {"memory": format_bytes(options.memory), "processes": str(options.processes)}
    hit = [f"{name} limit of {bounds.get(name, '?')}" for name in death.limits]
    number = death.code - _SIGNAL_EXIT if death.code > _SIGNAL_EXIT else -death.code
    how = f"killed by {_signal_name(number)}" if number > 0 else f"exit code {death.code}"
    return f"{how}: over its {' and '.join(hit)}" if hit else f"the context died: {how}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(payload: bytes) -> str:
    return bounded(payload[:ERROR_MAX].decode("utf-8", "replace"))


def _log(log: bytes, said: Said) -> bytes:
    notes = []
    if said.extra:
        notes.append(b"slimq: ignored %d result lines beyond the last job\n" % said.extra)
    if said.bad_children:
        notes.append(b"slimq: ignored %d malformed children\n" % said.bad_children)
    if notes and log and not log.endswith(b"\n"):
        log += b"\n"
    return (log + b"".join(notes))[-OUTPUT_TAIL_MAX:]
