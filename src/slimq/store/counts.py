"""What a job is counted as in its type. A store keeps these counts exact."""

from __future__ import annotations

from slimq.core.lifecycle import DONE, FREE
from slimq.core.status import Outcome, outcome_of

WAITING, RUNNING, OK, FAILED, ERROR = KINDS = range(5)
_DONE_KINDS = {Outcome.OK: OK, Outcome.FAILED: FAILED, Outcome.ERROR: ERROR}


def kind_of(lock: str, status: int) -> int:
    """Return what a job with this lock and status is counted as."""
    if lock == FREE:
        return WAITING
    return _DONE_KINDS[outcome_of(status)] if lock == DONE else RUNNING
