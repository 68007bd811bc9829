"""A real node on whose disk a system call fails: the N-th, or that and all after it.

The unit tests let each call of the journal fail; here it is any call by which the data folder
changes, those of SQLite, too, below all of the node's own code.
"""

from __future__ import annotations

import errno
import platform
import random
import sys
import time
from pathlib import Path

import pytest
from node_kit import ECHO, Answer, EndedAtStart, Node, wait_until
from power_kit import Judge, Request, recover

from proof_kit import Proof

TRACER = Path(__file__).with_name("nth_call.py")
CALLS = 150  # about what a life makes
REFUSALS = {"/problems/journal-failed", "/problems/disk-full", "/problems/store-unavailable"}
REFUSALS |= {"/problems/durability-unmet"}

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="calls are made to fail on x86_64 only"
)


class Life:
    """What a node is asked, and how it answered. `number` makes its lines its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[Request] = []

    def live(self, call: int, fault: str) -> str:
        """Let that call fail; return how far it came."""
        prefix = [sys.executable, str(TRACER), str(call), fault, str(self.folder / "data")]
        try:
            with Node(self.folder, prefix=prefix) as node:
                node.ask("PUT", "/handlers/work", b'{"lang":"exec","body":["sed","s/^/200 /"]}')
                for level in ("journal", "buffered", "store", "journal"):
                    self.post(node, level)
                if fault.endswith("+"):
                    node.kill()
                    return "killed"
                self.recovers(node)
                return "well"
        except EndedAtStart as end:
            said = str(end)
        assert "Traceback" not in said, said
        return "refused to start"

    def post(self, node: Node, level: str) -> bool:
        """Add jobs; return whether they were accepted. A refusal is one of those documented."""
        number = len(self.sent)
        lines = [b"%d %d" % (number, n) for n in range(1 + 4 * (number % 3))]
        request = Request(lines, "journal", time.monotonic_ns())  # no power is cut here
        self.sent.append(request)
        answer = node.post("work", lines, f"&durability={level}", timeout=30)
        if answer.status == 202:
            request.ids, request.acked_at = answer.document["ids"], time.monotonic_ns()
            return True
        assert is_refusal(answer), answer
        return False

    def recovers(self, node: Node) -> None:
        """Without a restart it accepts again, runs what it accepted, and ends well."""
        wait_until(lambda: self.post(node, "journal"), "it accepts again")
        wait_until(lambda: not node.problems(), "/healthz says ok")
        node.put("work", lang="exec", body=ECHO)
        for request in self.sent:
            for id_ in request.ids:
                assert node.done(id_)["status"] == 200
        assert not [line for line in node.log if "Traceback" in line or "thread.died" in line]
        node.call("POST", "/quit")
        assert node.ended() == 0, node.log

    def check(self) -> None:
        """All that was accepted is there, once, whatever the faults were."""
        Judge(self.sent, {}).judge(recover(self.folder / "data"), time.monotonic_ns())


def is_refusal(answer: Answer) -> bool:
    return answer.status in (503, 507) and answer.document["type"] in REFUSALS


@pytest.mark.proof("T7")
@pytest.mark.timeout(300)
def test_a_call_that_fails_loses_nothing_that_was_accepted_and_is_over_without_a_restart(
    tmp_path: Path, proof: Proof
) -> None:
    chance = random.Random(proof.seed)
    faults = [str(code) + rest for code in (errno.EIO, errno.ENOSPC) for rest in ("", "+")]
    stride = proof.size(submission=40, release=1)
    ends: dict[str, int] = {}
    for fault in faults:
        for call in range(1 + chance.randrange(stride), CALLS, stride):
            folder = tmp_path / f"{fault}-{call}"
            folder.mkdir()
            life = Life(folder)
            print(f"call {call} fails with {fault}")
            end = life.live(call, fault)
            ends[end] = ends.get(end, 0) + 1
            life.check()
    print(ends)
    assert ends["well"] > 0
    proof.report(faults=sum(ends.values()), lost=0)
