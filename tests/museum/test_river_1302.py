"""riverqueue/river#1302: the rescuer fetched jobs that looked stuck, and wrote "retryable" over
one that had completed since: a finished job ran again.

slimq: a sweep looks and frees in one statement, and only what is leased at that moment: a job that
is done is never touched, and one that was freed is not finished by the run that lost it.
"""

from __future__ import annotations

from threading import Barrier, Thread

from store_kit import Yard

from slimq.core.lifecycle import DONE, FREE
from slimq.core.limits import LEASE_MS

JOBS = 200
ROUNDS_MAX = 20


def test_of_a_sweep_and_the_end_of_a_run_that_meet_one_counts_and_the_other_changes_nothing(
    shared_yard: Yard,
) -> None:
    ended: set[str] = set()
    freed = rounds = 0
    while not (ended and freed):
        rounds += 1
        assert rounds <= ROUNDS_MAX, "they never met"
        ended, freed = race(shared_yard)


def race(yard: Yard) -> tuple[set[str], int]:
    """Let runs end while a sweep takes them for abandoned; return who ended, and how many
    were freed."""
    ids = yard.add(count=JOBS)
    jobs = [job for job in yard.claim(limit=10 * JOBS) if job.id in ids]
    assert len(jobs) == JOBS
    yard.clock.advance(LEASE_MS)
    ended: set[str] = set()
    freed: list[int] = []
    start = Barrier(2)

    def finish() -> None:
        start.wait()
        for at in range(0, JOBS, 5):
            part = jobs[at : at + 5]
            ended.update({job.id for job in part} - yard.finish(part))

    def sweep() -> None:
        start.wait()
        while (count := yard.other.free(5).again) > 0:
            freed.append(count)

    threads = [Thread(target=finish), Thread(target=sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in jobs:
        view = yard.store.job(job.id)
        assert view is not None
        if job.id in ended:
            assert (view.lock, view.status, view.crashes) == (DONE, 200, 0)
        else:
            assert (view.lock, view.status, view.crashes) == (FREE, 521, 1)
    assert len(ended) + sum(freed) == JOBS
    return ended, sum(freed)
