"""How a command ended becomes the results of its jobs. Pure.

========================  ==========================================================
exit code 0               result lines count; a job without one is NO_RESULT
any other end             result lines count; the jobs without one are suspects, or,
                          when there is one job only, get what the end says of it
``result = "exit"``       the exit code is the result of every job
========================  ==========================================================
"""

from __future__ import annotations

import signal

from slimq.core import status
from slimq.core.handler import Options
from slimq.core.job import Ran, Result
from slimq.core.limits import OUTPUT_TAIL_MAX, RESULT_MAX, STDOUT_MAX
from slimq.core.lines import CHILD_MARK, parse_reply, split_lines
from slimq.runner.answer import log_of, read_answer, same_for_all
from slimq.runner.command_run import Ended


def judge(ended: Ended, count: int, options: Options) -> Ran:
    """Return what became of a batch of `count` jobs whose command has ended."""
    if options.result == "exit":
        return _judge_exit(ended, count, options)
    return _judge_lines(ended, count, options)


def _judge_lines(ended: Ended, count: int, options: Options) -> Ran:
    answer = read_answer(_whole_lines(ended), count, ended.stderr)
    ran = Ran(answer.results, answer.children, answer.log)
    if answer.missing and (ended.timed_out or ended.overflowed or ended.code != 0):
        _blame(ran, answer.missing, _end(ended, options))
    return ran


def _judge_exit(ended: Ended, count: int, options: Options) -> Ran:
    reply = parse_reply(ended.stdout, 1)
    result = _end(ended, options)
    children = [reply.children[0], *([] for _ in range(count - 1))]
    if count == 1:
        result.text = _text(ended.stdout)
        output = ended.stderr
        if reply.bad_children:
            output = log_of(reply._replace(log=[], extra=0), output)
    else:
        output = (ended.stdout + ended.stderr)[-OUTPUT_TAIL_MAX:]
    ran = Ran(same_for_all(count, result), children, output)
    if _killed(ended):
        _blame(ran, list(range(count)), result)
    return ran


def _blame(ran: Ran, missing: list[int], end: Result) -> None:
    """Give the jobs without a result what the end of the command says of them. One alone
    is guilty; several are suspects with a provisional ERROR, to be run again in halves."""
    alone = len(ran.results) == 1
    ran.died, ran.suspects = True, [] if alone else missing
    for index in missing:
        provisional = end.status if alone or end.status >= status.ERROR else status.ERROR
        crashed = alone and end.status == status.CRASHED
        ran.results[index] = Result(provisional, end.text, end.error, crashed=crashed)
        if not alone and ran.children:
            ran.children[index] = []


def _killed(ended: Ended) -> bool:
    return ended.timed_out or ended.overflowed or ended.code < 0


def _end(ended: Ended, options: Options) -> Result:
    """Return what the end of the command says of a job that has no result of its own."""
    if ended.timed_out:
        return Result(status.TIMEOUT, error=f"timed out after {options.timeout_ms} ms")
    if ended.overflowed:
        return Result(status.ERROR, error=f"killed: more than {STDOUT_MAX} bytes on stdout")
    if ended.code < 0:
        return Result(status.CRASHED, error=f"killed by {_signal_name(-ended.code)}")
    error = f"exit code {ended.code}" if ended.code else ""
    return Result(_status_of_code(ended.code, options), error=error)


def _status_of_code(code: int, options: Options) -> int:
    if code in options.retry_on:
        return status.RETRY_LATER
    if code in options.fail_on:
        return status.FAILED
    return status.status_of_exit(code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _whole_lines(ended: Ended) -> bytes:
    """Return stdout; of a command that was killed, without a last line that was cut."""
    if not _killed(ended):
        return ended.stdout
    return ended.stdout[: ended.stdout.rfind(b"\n") + 1]


def _text(stdout: bytes) -> bytes:
    lines = [line for line in split_lines(stdout) if not line.startswith(CHILD_MARK)]
    return b"\n".join(lines)[:RESULT_MAX].rstrip(b"\r\n")
