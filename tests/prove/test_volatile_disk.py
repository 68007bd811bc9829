"""Power cuts on a disk that forgets all that no sync covers: names, data, and parts of both.

ext4 makes a name durable with its file; this disk does not, nor does it keep any order.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from proof_kit import Proof
from slimq.core.jobid import Minter
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, Position
from slimq.journal.writer import JournalWriter
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from volatile_disk import PowerCut, VolatileDisk

FOLDER = Path("/journal")  # of that disk: there is no such folder
STEPS = 40
WEIGHTS = {"journal": 8, "buffered": 6, "spooled": 2, "sync": 2, "kill": 2, "restart": 1, "cut": 3}


class Life:
    """A journal on such a disk, and what it must still have after the next power cut."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.disk = VolatileDisk(chance)
        self.minter = Minter("NODENODE")
        self.writer = self.new_writer()
        self.safe: list[int] = []  # the numbers of bodies that must be there
        self.soft: list[int] = []  # acknowledged as buffered: there after a kill
        self.maybe: list[int] = []  # on the way when the power was cut
        self.number = 0
        self.cuts = 0
        self.writer.open()

    def new_writer(self) -> JournalWriter:
        return JournalWriter(
            FOLDER,
            disk=self.disk,
            clock=SystemClock(),
            chance=SystemChance(),
            segment_bytes=1500,
            reserve_bytes=2048,
        )

    def live(self) -> None:
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for step in self.chance.choices(names, weights, k=STEPS):
            try:
                self.take(step)
            except PowerCut:
                self.cut_power()
        self.cut_power()

    def take(self, step: str) -> None:
        if step in ("journal", "buffered", "spooled"):
            self.commit(step)
        elif step == "sync":
            self.writer.sync()
            self.harden()
        elif step == "kill":
            self.disk.kill()
            self.reopen(must=self.safe + self.soft)
        elif step == "restart":
            self.writer.close()
            self.harden()
            self.reopen(must=self.safe)
        else:  # soon, in the middle of something
            self.disk.cut_in = self.chance.randrange(8)

    def commit(self, step: str) -> None:
        level = "buffered" if step == "buffered" else "journal"
        numbers = range(self.number, self.number + self.chance.choice((1, 1, 2, 5)))
        self.number = numbers.stop
        self.maybe += numbers
        appends = [self.append(number, level, is_spooled=step == "spooled") for number in numbers]
        self.writer.commit(appends)
        assert [append.error for append in appends] == [None] * len(appends)
        del self.maybe[-len(appends) :]
        self.soft += numbers
        if level == "journal":
            self.harden()

    def append(self, number: int, level: str, *, is_spooled: bool) -> Append:
        data = b"%d\n" % number + b"x" * self.chance.choice((0, 10, 700))
        body = Body.of(data)
        if is_spooled:
            body = Body(BodyBudget(FOLDER, disk=self.disk, body_max=9999, body_in_memory_max=0))
            body.feed(data)
            body.finish()
        ids = self.minter.block(body.count, 1_700_000_000_000)
        return Append(Header(id=ids.first, count=body.count, at=1), body, level)

    def harden(self) -> None:
        """All that was acknowledged is synced: it must survive everything from now on."""
        self.safe += self.soft
        self.soft.clear()

    def cut_power(self) -> None:
        self.disk.cut_power()
        self.cuts += 1
        self.reopen(must=self.safe)

    def reopen(self, must: list[int]) -> None:
        """Start again. What is found is run and answered for: it must never go again."""
        while True:
            self.writer = self.new_writer()
            try:
                self.writer.open()
                break
            except PowerCut:
                self.disk.cut_power()
                self.cuts += 1
                must = self.safe
        found = self.read()
        assert sorted(set(found)) == found, "in another order, or twice"
        assert set(must) <= set(found), "what was acknowledged is lost"
        assert set(found) <= {*self.safe, *self.soft, *self.maybe}, "never sent"
        kept = set(found).intersection(self.soft)
        assert kept == set(self.soft[: len(kept)]), "what is lost of the buffered is not the last"
        self.safe, self.soft, self.maybe = found, [], []

    def read(self) -> list[int]:
        reader, position, numbers = JournalReader(self.writer), Position(), []
        while True:
            entries, following = reader.read(position, 1 << 20)
            for entry in entries:
                lines, _, _ = entry.body.lines(0, 1, 1 << 20)
                numbers.append(int(lines[0]))
            if following == position:
                return numbers
            position = following


@pytest.mark.proof("T2b")
def test_what_was_acknowledged_survives_also_where_names_and_data_vanish_by_themselves(
    proof: Proof,
) -> None:
    chance = random.Random(proof.seed)
    lives = proof.size(submission=400, release=60_000)
    cuts = acked = 0
    for number in range(lives):
        seed = chance.getrandbits(64)
        life = Life(random.Random(seed))
        try:
            life.live()
        except AssertionError:
            print(f"life {number}, seed {seed}, after {life.cuts} power cuts")
            raise
        cuts += life.cuts
        acked += life.number
    proof.report(states=cuts, lives=lives, acked=acked, lost=0)
