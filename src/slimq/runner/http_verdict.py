"""An http answer becomes the results of its jobs. Pure."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from slimq.core import status
from slimq.core.handler import Options
from slimq.core.job import Ran, Result
from slimq.core.limits import RESULT_MAX
from slimq.core.status import Outcome, outcome_of
from slimq.runner.answer import bounded, read_answer, same_for_all
from slimq.runner.caller import Response

_SECONDS_DIGITS_MAX = 10  # more is no delay but an attack on an integer


def judge(response: Response, count: int, single: bool, options: Options, now_ms: int) -> Ran:
    """Return what became of a batch of `count` jobs: in the `single` form the answer's
    body is the text of the one result, in the batch form a 2xx has result lines."""
    result = _overall(response, options, now_ms)
    if single:
        result.text = response.body[:RESULT_MAX]
        return Ran([result], [[]])
    if outcome_of(result.status) is Outcome.OK:
        answer = read_answer(response.body, count)
        return Ran(answer.results, answer.children, answer.log)
    return Ran(same_for_all(count, result), [[] for _ in range(count)])


def _overall(response: Response, options: Options, now_ms: int) -> Result:
    if not response.code:
        return Result(_status_of_no_answer(response), error=bounded(response.error))
    result = Result(status.status_of_http(response.code, options.retry_on, options.fail_on))
    if response.slimq_status is not None and 200 <= response.code < 300:
        _override(result, response.slimq_status)
    elif outcome_of(result.status) is not Outcome.OK:
        result.error = _error_of(response.code)
    if outcome_of(result.status) is Outcome.RETRY and response.retry_after is not None:
        result.retry_after_ms = parse_retry_after(response.retry_after, now_ms)
    return result


def _status_of_no_answer(response: Response) -> int:
    if response.short:  # not what the target did: it costs no failure
        return status.RETRY_LATER
    return status.TIMEOUT if response.timed_out else status.NO_RESULT


def _override(result: Result, said: str) -> None:
    """Take the status of a ``Slimq-Status`` header. A malformed one is no answer: the
    target meant something else than its 2xx."""
    legal = len(said) == 3 and said.isascii() and said.isdigit()
    if legal and status.is_status(int(said)):
        result.status = int(said)
    else:
        result.status, result.error = status.NO_RESULT, "malformed Slimq-Status"


def _error_of(code: int) -> str:
    redirect = 300 <= code < 400
    return f"answered {code}" + (": redirects are not followed" if redirect else "")


def parse_retry_after(value: str, now_ms: int) -> int | None:
    """Return the ms that a ``Retry-After`` (RFC 9110 10.2.3: delay in seconds, or a date)
    asks for, at least 0; None when it is malformed."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return int(value) * 1000 if len(value) <= _SECONDS_DIGITS_MAX else None
    try:
        date = parsedate_to_datetime(value)
        at_ms = int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return max(0, at_ms - now_ms)
