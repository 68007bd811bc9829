"""celery/celery#2481, #2599, #7009 and celery/kombu#337: a task with an ETA beyond the visibility
timeout was given to one worker after the other while it waited, and ran up to 20 times.

slimq: a job that is deferred waits in the store without a lease; it is claimed when it is due.
"""

from __future__ import annotations

from collections import Counter

from engine_kit import DAY_MS, TYPE, MakeRig, handler, ids_of

from slimq.core.limits import LEASE_MS

WORKERS = 8
JOBS = 1_000
DELAY_MS = DAY_MS // 4  # 720 leases


def test_jobs_that_are_deferred_for_hours_run_once_each_and_not_before_their_time(
    make_rig: MakeRig,
) -> None:
    first = make_rig("worker0", sysid="worker00")
    rigs = [first] + [
        make_rig(f"worker{n}", sysid=f"worker0{n}", store=first.memory, clock=first.clock)
        for n in range(1, WORKERS)
    ]
    first.memory.put_handler(handler(batch_size=10))
    due = first.clock.wall_ms() + DELAY_MS
    ids = first.add(*(b"%d" % n for n in range(JOBS)), type=TYPE, dt=due)
    ran: Counter[str] = Counter()
    while (left := due + LEASE_MS - first.clock.wall_ms()) > 0:
        first.clock.advance(LEASE_MS if left > 3 * LEASE_MS else 1000)
        while any([rig.step() for rig in rigs] + [rig.air for rig in rigs]):
            for rig in rigs:
                for flight in list(rig.air):
                    assert first.clock.wall_ms() >= due
                    ran.update(ids_of(flight))
                    rig.land(flight, 200)
    assert ran == Counter(ids)
    assert first.counts() == (0, 0, JOBS, 0, 0)
