"""A client with an endless backlog, one whose jobs hang, one whose jobs kill their command, and
97 that add one job a second: none of these waits for the others.

The time is virtual: waits are exact, on any machine.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from engine_kit import MakeRig, Rig, handler

from clock_kit import FakeClock
from proof_kit import Proof
from slimq.core.job import Result
from slimq.core.limits import CRASHES_MAX
from slimq.runner.flight import Flight
from slimq.store.sqlite import SqliteStore

GOOD = [f"good{number}" for number in range(97)]
BACKLOG = 20_000
SLOTS = 64
TICK_MS = 50
CALL_MS = {"noisy": 100, "slow": 30_000, "poison": 50}  # how long a run takes; 100 for others
WAIT_MAX_MS = 500  # for 95 of 100 jobs of a good client
WORST_MAX_MS = 2_000


class Yard:
    """A node whose runs take their time. `waits` are those of the jobs of good clients."""

    def __init__(self, rig: Rig, chance: Random) -> None:
        self.rig = rig
        self._chance = chance
        self._ends: dict[int, list[Flight]] = defaultdict(list)
        self._seen: set[Flight] = set()
        self.waits: list[int] = []
        self.added = 0

    def turn(self) -> None:
        """Let one tick pass: good clients add, runs begin and end."""
        now = self.rig.clock.wall_ms()
        for client in GOOD:
            if self._chance.random() < TICK_MS / 1000:
                self.rig.add(b"x", type=f"{client}/work")
                self.added += 1
        self.start()
        self.rig.clock.advance(TICK_MS)
        for flight in self._ends.pop(now + TICK_MS, ()):
            self._seen.discard(flight)
            poison = flight.batch.type.startswith("poison/")
            self.rig.land(flight, Result(520, crashed=True) if poison else Result(200))

    def start(self) -> None:
        """Let the node start what it may."""
        while self.rig.step():
            pass
        for flight in self.rig.air:
            if flight not in self._seen:
                self._started(flight, self.rig.clock.wall_ms())

    def _started(self, flight: Flight, now: int) -> None:
        self._seen.add(flight)
        client = flight.batch.type.partition("/")[0]
        self._ends[now + CALL_MS.get(client, 100)].append(flight)
        if client.startswith("good"):
            self.waits += [now - job.due_at for job in flight.batch.jobs]


@pytest.mark.proof("T12")
def test_no_client_waits_for_the_backlog_the_hangs_or_the_crashes_of_another(
    make_rig: MakeRig, tmp_path: Path, proof: Proof
) -> None:
    clock = FakeClock()
    with closing(
        SqliteStore(tmp_path / "store.db", clock=clock, durable=False, boot="boot1")
    ) as store:
        rig = make_rig(clock=clock, store=store, slots=SLOTS)
        options = {"batch_size": 1, "backoff": {"min": "1s", "max": "1s"}, "timeout": "60s"}
        store.put_handler(handler("work", "*", **options))
        yard = Yard(rig, Random(proof.seed))
        rig.add(*(b"x" for _ in range(BACKLOG)), type="slow/work")
        yard.start()  # alone: it gets all that one client may have
        rig.add(*(b"x" for _ in range(BACKLOG)), type="noisy/work")
        poison = rig.add(*(b"x" for _ in range(50)), type="poison/work")
        seconds = proof.size(submission=15, release=600)
        for _ in range(seconds * 1000 // TICK_MS):
            yard.turn()
        for id_ in poison:
            view = store.job(id_)
            assert view is not None
            assert (view.status, view.crashes) == (520, CRASHES_MAX)
        noisy = store.type("noisy/work")
        assert noisy is not None
        assert noisy.ok > 0
    waits = sorted(yard.waits)
    assert len(waits) >= yard.added - 2 * len(GOOD), "good clients are behind"
    assert waits[len(waits) * 95 // 100] <= WAIT_MAX_MS
    assert waits[-1] <= WORST_MAX_MS
    proof.report(
        clients=len(GOOD) + 3,
        jobs_of_good_clients=len(waits),
        wait_ms_95=waits[len(waits) * 95 // 100],
        wait_ms_worst=waits[-1],
    )
