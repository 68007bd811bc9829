"""A disk that takes seconds over a write: callers wait, and are told the truth.

The disk below the file system of the node is stopped, and later goes on: no call fails, and
none returns meanwhile.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from crash_kit import Disk, need_disks, scratch
from load_kit import NO_ANSWER
from node_kit import ECHO, Answer, Node, wait_until
from power_kit import Judge, Request, recover

from proof_kit import Proof
from slimq.core.limits import STALL_MS

CALLERS = 12
LEVELS = ("journal", "journal", "buffered", "store")
AT_ONCE_S = 2.0  # whatever needs no write


class Rounds:
    """A node on a disk that stands still again and again, and what it was sent."""

    def __init__(
        self, node: Node, disk: Disk, pool: ThreadPoolExecutor, chance: random.Random
    ) -> None:
        self.node = node
        self.disk = disk
        self.sent: list[Request] = []
        self.refused = 0
        self.longest_ms = 0.0
        self._chance = chance
        self._pool = pool

    def post(self, level: str) -> Answer | None:
        """Add jobs; return the answer, or None where there was none."""
        number = len(self.sent)
        lines = [b"%d %d" % (number, n) for n in range(1 + number % 3)]
        request = Request(lines, level, time.monotonic_ns())
        self.sent.append(request)
        try:
            answer = self.node.post("work", lines, f"&durability={level}")
        except NO_ANSWER:
            return None
        if answer.status == 202:
            assert answer.headers["slimq-durability"] == level
            request.ids, request.acked_at = answer.document["ids"], time.monotonic_ns()
        return answer

    def waiting(self) -> list[Future[Answer | None]]:
        """Send requests that wait for the disk. Those at the level `buffered` wait for others
        only: they are not among those returned."""
        levels = [self._chance.choice(LEVELS) for _ in range(CALLERS - 2)]
        posted = [(level, self._pool.submit(self.post, level)) for level in levels]
        return [each for level, each in posted if level != "buffered"]

    def stand_still(self) -> None:
        """Callers wait; later ones are refused, which the node says of itself, too; all who
        waited are accepted once the disk goes on."""
        with self.disk.standing_still():
            since = time.monotonic()
            waiting = self.waiting()
            wait_until(self.is_refusing, "it refuses")
            assert time.monotonic() - since > STALL_MS / 1000 * 0.9
            starting = self._pool.submit(self.node.call, "POST", "/start")  # it survives a restart
            self.check_refusal()
            assert not [each for each in waiting if each.done()], "what is not on disk is answered"
        answers = [each.result() for each in waiting]
        assert starting.result()["state"] == "running"
        self.longest_ms = max(self.longest_ms, (time.monotonic() - since) * 1000)
        assert [answer and answer.status for answer in answers] == [202] * len(waiting)
        wait_until(lambda: not self.node.problems(), "/healthz says ok")
        assert self.node.ask("GET", "/readyz").status == 200

    def is_refusing(self) -> bool:
        since = time.monotonic()
        answer = self.node.ask("GET", "/readyz")
        assert time.monotonic() - since < AT_ONCE_S, "one who asks how it is waits for the disk"
        return answer.status == 503

    def check_refusal(self) -> None:
        for level in LEVELS:
            since = time.monotonic()
            answer = self.post(level)
            assert time.monotonic() - since < AT_ONCE_S
            assert answer is not None
            assert (answer.status, answer.document["type"]) == (503, "/problems/journal-failed")
            assert int(answer.headers["retry-after"]) > 0
            self.refused += 1
        said = self.node.call("GET", "/status")["node"]["journal"]["error"]
        assert "the disk" in said
        assert said in self.node.problems()

    def kill(self) -> None:
        """The node is killed while the disk stands still: it dies when that goes on."""
        with self.disk.standing_still():
            waiting = self.waiting()
            wait_until(self.is_refusing, "it refuses")
            self.node.process.kill()
        self.node.kill()
        assert [each.result() for each in waiting] == [None] * len(waiting)
        self.node.start()

    def check_all_ran(self) -> None:
        for request in self.sent:
            for id_ in request.ids:
                assert self.node.done(id_)["status"] == 200


@pytest.mark.proof("T7")
def test_while_the_disk_stands_still_callers_wait_or_are_refused_and_nothing_is_lost(
    proof: Proof,
) -> None:
    need_disks()
    with scratch() as folder, ThreadPoolExecutor(CALLERS) as pool:
        disk = Disk(folder)
        with disk.mounted() as place, Node(place) as node:
            node.put("work", lang="exec", body=ECHO)
            rounds = Rounds(node, disk, pool, random.Random(proof.seed))
            stalls = proof.size(submission=1, release=50)
            for _ in range(stalls):
                rounds.stand_still()
                rounds.kill()
            rounds.check_all_ran()
            assert node.quit() == 0
            Judge(rounds.sent, {}).judge(recover(place / "data"), time.monotonic_ns())
    proof.report(
        stalls=2 * stalls,
        waited=sum(request.acked_at > 0 for request in rounds.sent),
        refused=rounds.refused,
        longest_wait_ms=round(rounds.longest_ms),
        lost=0,
    )
