"""tobymao/saq#277, #124, #118: the sweep aborted jobs that were queued or had just begun to run.

slimq: the sweep frees leases that are over, by the store's clock, and nothing else.
"""

from __future__ import annotations

from threading import Event, Thread

import pytest
from store_kit import NODE, OTHER, Yard

from proof_kit import Proof


@pytest.mark.proof("P11")
def test_no_sweep_takes_a_job_that_waits_begins_or_runs(shared_yard: Yard, proof: Proof) -> None:
    jobs = proof.size(submission=1_000, release=100_000)
    yard = shared_yard
    yard.add(count=jobs)
    finished: list[str] = []
    swept: list[int] = []
    over = Event()

    def work() -> None:
        try:
            while claimed := yard.claim(limit=10):
                assert yard.finish(claimed) == set()
                finished.extend(job.id for job in claimed)
        finally:
            over.set()

    def sweep() -> None:
        while not over.is_set():
            freed = yard.other.free(100)
            swept.append(freed.again + freed.dead)

    threads = [Thread(target=work), Thread(target=sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(swept) > 10
    assert sum(swept) == 0
    assert len(finished) == len(set(finished)) == jobs
    assert yard.counts() == (0, 0, jobs, 0, 0)
    proof.report(jobs=jobs, sweeps=len(swept), false_sweeps=0)


def test_no_sweep_takes_a_job_of_another_node_while_its_lease_lasts(yard: Yard) -> None:
    yard.add(count=4)
    yard.claim(limit=1)
    yard.claim(limit=1, lock=OTHER)
    assert yard.store.free(10) == yard.other.free(10) == (0, 0, {})
    assert len(yard.store.leases(NODE)) == len(yard.store.leases(OTHER)) == 1
