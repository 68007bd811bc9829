"""The (dt, lock, attempt) machine. All that moves a job is in this file.

    dt          lock        state
    > now       ''          deferred
    <= now      ''          ready
    > now       sysid       running
    <= now      sysid       abandoned: that node stalled or crashed
    > 3000      '__done'    done: finished at dt - 1000 years, waiting to be purged

              +------------------- retry (by hand) -------------------+
              v                                                       |
    accepted -> deferred -> ready --claim--> running --finish--> done-+
                  ^           ^                |  |                ^
                  |           +----release-----+  |                |
                  +------finish: RETRY, ERROR-----+                |
                              ^                   |                |
                              +----free-------abandoned--crashes---+

The memory store is this machine over a dict; other stores say the same in SQL, and one
conformance suite holds them to it. Times are milliseconds of the store's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from slimq.core import status as statuses
from slimq.core.backoff import backoff_ms
from slimq.core.handler import Options
from slimq.core.job import Job, Result
from slimq.core.limits import CRASHES_MAX, RETRY_AFTER_MAX_MS
from slimq.core.status import Outcome

YEAR_MS = 31_556_952_000
DONE_SHIFT_MS = 1000 * YEAR_MS
DONE = "__done"
FREE = ""
_RUN_BEFORE = attrgetter("attempt", "failures", "crashes")
_OVER = frozenset({2, 4})  # hundreds of the statuses that end a job whatever was before


class State(StrEnum):
    DEFERRED = "deferred"
    READY = "ready"
    RUNNING = "running"
    ABANDONED = "abandoned"
    DONE = "done"


class Lease(NamedTuple):
    """What a node must show to finish, renew or release a job, beside its sysid."""

    id: str
    attempt: int


class Mark(msgspec.Struct):
    """Where a job stands: the part of its row that the machine moves."""

    dt: int
    lock: str
    attempt: int
    failures: int
    crashes: int
    due_at: int
    status: int = 0  # of the last run; 0 before the first


class Move(msgspec.Struct):
    """What a finish writes to jobs that end alike, to each where (id, lock, attempt) still match
    and the job is not done.

    `hold_until` is set for jobs of an ordered handler that run again: the job keeps its
    place in line (dt stays due_at) and its type waits instead.
    """

    ids: list[str]
    attempt: int
    dt: int
    lock: str
    status: int
    failures: int
    crashes: int
    result: bytes = b""
    error: str = ""
    hold_until: int = 0


def each_of(moves: Iterable[Move]) -> Iterator[tuple[str, Move]]:
    """Yield the id of each job with its move."""
    for move in moves:
        for id_ in move.ids:
            yield id_, move


def state_of(dt: int, lock: str, now: int) -> State:
    if lock == DONE:
        return State.DONE
    if lock == FREE:
        return State.DEFERRED if dt > now else State.READY
    return State.RUNNING if dt > now else State.ABANDONED


def done_dt(now: int) -> int:
    """Return the dt of a job that is finished at `now`."""
    return now + DONE_SHIFT_MS


def finished_at(dt: int) -> int:
    """Return when a done job was finished."""
    return dt - DONE_SHIFT_MS


def claimable(mark: Mark, now: int) -> bool:
    return mark.lock == FREE and mark.dt <= now


def claim(mark: Mark, lock: str, now: int, lease_ms: int) -> None:
    assert claimable(mark, now), "only a ready job can be claimed"
    mark.lock, mark.dt = lock, now + lease_ms
    mark.attempt += 1


def holds(mark: Mark, lock: str, attempt: int) -> bool:
    """The fence: whether (lock, attempt) still owns the job. A done job is owned by none."""
    return mark.lock == lock and mark.attempt == attempt and lock not in (DONE, FREE)


def renew(mark: Mark, now: int, lease_ms: int) -> None:
    mark.dt = max(mark.dt, now + lease_ms)


def release(mark: Mark) -> None:
    """Give a job back as if it had not been claimed: it keeps its place in line."""
    mark.lock, mark.dt = FREE, mark.due_at


def abandoned(mark: Mark, now: int) -> bool:
    return mark.lock not in (FREE, DONE) and mark.dt <= now


def free(mark: Mark, now: int) -> None:
    """Take a job back from the dead. One that was lost too often is done with an ERROR."""
    mark.crashes += 1
    mark.status = statuses.ABANDONED
    if mark.crashes >= CRASHES_MAX:
        mark.lock, mark.dt = DONE, done_dt(now)
    else:
        mark.lock, mark.dt = FREE, mark.due_at


def finish(mark: Mark, move: Move) -> None:
    mark.dt, mark.lock, mark.status = move.dt, move.lock, move.status
    mark.failures, mark.crashes = move.failures, move.crashes


def cancel(mark: Mark, now: int) -> bool:
    """End a job that is not done; return whether it was not."""
    if mark.lock == DONE:
        return False
    mark.dt, mark.lock, mark.status = done_dt(now), DONE, statuses.CANCELLED
    return True


def may_hold(mark: Mark) -> bool:
    """Whether a job waits to run again: its ordered type may be on hold for it."""
    return mark.lock == FREE and mark.attempt > 0


def retry(mark: Mark, now: int) -> bool:
    """Run a done job again as if it were new, or a deferred one now; return whether it
    was one of these. The attempt goes on counting: it is the fence."""
    if mark.lock == DONE:
        mark.failures = mark.crashes = 0
        mark.due_at = now
    elif mark.lock != FREE or mark.dt <= now:
        return False
    mark.due_at = min(mark.due_at, now)  # else who gives it back would defer it again
    mark.dt, mark.lock = now, FREE
    return True


def settle_all(
    jobs: Sequence[Job],
    results: Sequence[Result],
    options: Options,
    now: int,
    chance: Callable[[], float],
) -> list[Move]:
    """Return how the results of a batch move its jobs. Those that are over, with nothing said,
    and were run as often before share a move: nearly always that is all of them, which is found
    out without looking at each."""
    first = results[0]
    one_end = _ends_plainly(first) and results.count(first) == len(results) == len(jobs)
    if one_end and len(set(map(_RUN_BEFORE, jobs))) == 1:
        return [replace(settle(jobs[0], first, options, now, 0), ids=[job.id for job in jobs])]
    moves: list[Move] = []
    alike: dict[tuple[int, object], Move] = {}
    for job, result in zip(jobs, results, strict=True):
        if not _ends_plainly(result):
            moves.append(settle(job, result, options, now, chance()))
            continue
        kind = result.status, _RUN_BEFORE(job)
        move = alike.get(kind)
        if move is None:
            alike[kind] = settle(job, result, options, now, 0)
        else:
            move.ids.append(job.id)
    return [*alike.values(), *moves]


def _ends_plainly(result: Result) -> bool:
    return result.status // 100 in _OVER and not (result.text or result.error)


def settle(job: Job, result: Result, options: Options, now: int, chance: float) -> Move:
    """Return how `result` moves `job`: done, or again later. `chance` is in [0, 1).

    RETRY costs no failure and ends as 410 when max_age is over. ERROR counts a failure,
    or a crash when its context died, and ends when either is used up or max_age is over.
    """
    failures, crashes, status = job.failures, job.crashes, result.status
    outcome = statuses.outcome_of(status)
    if outcome is Outcome.ERROR:
        if result.crashed:
            crashes += 1
        else:
            failures += 1
    again = outcome in (Outcome.RETRY, Outcome.ERROR)
    spent = failures >= options.max_failures or crashes >= CRASHES_MAX
    if again and not (outcome is Outcome.ERROR and spent):
        delay = _delay_ms(job, result, options, failures + crashes, chance)
        if now + delay <= job.due_at + options.max_age_ms:
            return _again(job, result, options.ordered, now + delay, failures, crashes)
        if outcome is Outcome.RETRY:
            status = statuses.EXPIRED
    return Move(
        [job.id],
        job.attempt,
        done_dt(now),
        DONE,
        status,
        failures,
        crashes,
        result.text,
        result.error,
    )


def _delay_ms(job: Job, result: Result, options: Options, errors: int, chance: float) -> int:
    """Return how long a job waits. A RETRY waits for as long as asked, and longer by chance, by
    up to as much again: a whole herd may have been told the same moment. Without a wish, and
    after an ERROR, backoff decides."""
    low, high = options.backoff_min_ms, options.backoff_max_ms
    if result.retry_after_ms is not None:
        asked = min(max(result.retry_after_ms, low), RETRY_AFTER_MAX_MS)
        return asked + int(min(asked, high) * chance)
    tries = job.attempt if statuses.outcome_of(result.status) is Outcome.RETRY else errors
    return backoff_ms(tries, low, high, chance)


def _again(job: Job, result: Result, ordered: bool, at: int, failures: int, crashes: int) -> Move:
    dt, hold_until = (job.due_at, at) if ordered else (at, 0)
    return Move(
        [job.id],
        job.attempt,
        dt,
        FREE,
        result.status,
        failures,
        crashes,
        result.text,
        result.error,
        hold_until,
    )
