"""Three-digit statuses and the four outcomes they stand for.

    1xx RETRY   not now: again after its delay, costs no failure
    2xx OK      done
    4xx FAILED  ran, could not succeed: done, can be run again by hand
    5xx ERROR   crash, timeout, no answer: again after backoff, until it gives up

Statuses that slimq itself gives are the constants below.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    RETRY = "retry"
    OK = "ok"
    FAILED = "failed"
    ERROR = "error"


OK = 200
RETRY_LATER = 102  # the handler said "not now" without a status of its own
RETRY_NO_JOURNAL = 107  # its children could not be journaled
FAILED = 400
EXPIRED = 410  # RETRY until its max_age was over
CANCELLED = 499  # ended by POST /jobs/{id}/cancel
ERROR = 500
NO_RESULT = 502  # no answer, or not one that can be read
TIMEOUT = 504
CRASHED = 520  # the context of the handler died
ABANDONED = 521  # the node that ran it died, or lost its lease


def is_status(code: int) -> bool:
    """Return whether a handler may say `code`."""
    return 100 <= code <= 299 or 400 <= code <= 599


def outcome_of(status: int) -> Outcome:
    """Return the outcome of a status that `is_status` accepts."""
    return _OUTCOMES[status // 100]


_OUTCOMES = {1: Outcome.RETRY, 2: Outcome.OK, 4: Outcome.FAILED, 5: Outcome.ERROR}

_EXIT_OUTCOMES = {0: OK, 75: RETRY_LATER, 64: FAILED, 65: FAILED, 66: FAILED}


def status_of_exit(code: int) -> int:
    """Return the status of an exit code, by the names of sysexits.h: 75 EX_TEMPFAIL is
    RETRY; 64 EX_USAGE, 65 EX_DATAERR and 66 EX_NOINPUT are FAILED; a signal (negative)
    is a crash; anything else is ERROR."""
    if code < 0:
        return CRASHED
    return _EXIT_OUTCOMES.get(code, ERROR)


_HTTP_RETRY = frozenset({408, 425, 429, 503})


def status_of_http(
    code: int,
    retry_on: frozenset[int] = frozenset(),
    fail_on: frozenset[int] = frozenset(),
) -> int:
    """Return the status of an HTTP answer with `code`.

    2xx is OK; 408 425 429 503 RETRY; other 4xx FAILED; other 5xx, 1xx and 3xx ERROR.
    `retry_on` and `fail_on` are the handler's exceptions to that.
    """
    if code in retry_on:
        return RETRY_LATER
    if code in fail_on:
        return code if 400 <= code < 500 else FAILED
    if code in _HTTP_RETRY:
        return RETRY_LATER
    if 200 <= code < 300 or 400 <= code < 600:
        return code
    return NO_RESULT
