"""Nodes on one store are ended by SIGTERM and started again, one after the other, under load, as
a deploy does: nothing is lost, no short job runs twice, and no answer is cut off."""

from __future__ import annotations

import http.client
import threading
import urllib.error
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from node_kit import Node, wait_until

from proof_kit import Proof

NODES = 3
CALLERS = 2  # of each node
COMMAND = ["sh", "-c", "sleep 0.02; tee -a runs | sed 's/^/200 /'"]
AWAY_S = 0.1  # until a caller tries a node again that is gone
GONE = (urllib.error.URLError, ConnectionError, http.client.RemoteDisconnected)


class Caller(threading.Thread):
    """Adds lines to one node; a line that was refused or not answered is not sent again. An
    answer that begins and does not end is a failure."""

    def __init__(self, node: Node, name: str, seed: int) -> None:
        super().__init__(name=name)
        self._node = node
        self._chance = Random(seed)
        self._over = threading.Event()
        self.acknowledged: dict[str, str] = {}  # id: line
        self.unanswered: set[str] = set()
        self.failure: BaseException | None = None

    def close(self) -> None:
        self._over.set()
        self.join(60)
        assert self.failure is None, self.failure

    def run(self) -> None:
        number = 0
        try:
            while not self._over.wait(self._chance.uniform(0, 0.05)):
                count = self._chance.randint(1, 5)
                self._add([f"{self.name}-{number + each}" for each in range(count)])
                number += count
        except BaseException as error:
            self.failure = error

    def _add(self, lines: list[str]) -> None:
        try:
            answer = self._node.post("work", [line.encode() for line in lines], timeout=40)
        except GONE:  # of which an answer that was cut off is none
            self.unanswered.update(lines)
            self._over.wait(AWAY_S)
            return
        if answer.status == 202:
            self.acknowledged |= dict(zip(answer.document["ids"], lines, strict=True))
        else:
            assert answer.document["type"] == "/problems/shutting-down", answer


@pytest.mark.proof("T11")
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_rolling_restarts_lose_nothing_run_nothing_twice_and_cut_off_no_answer(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, proof: Proof
) -> None:
    store = {"SLIMQ_STORE__PATH": str(tmp_path / "shared.db")}
    if kind == "postgres":
        store = {"SLIMQ_STORE__URL": request.getfixturevalue("database")}
    chance = Random(proof.seed)
    restarts = proof.size(submission=3, release=150)
    pause = threading.Event()
    with ExitStack() as made:
        nodes = []
        for number in range(NODES):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            nodes.append(made.enter_context(Node(folder, **store)))
        nodes[0].put("work", lang="exec", body=COMMAND, options={"batch_size": 10})
        callers = [
            Caller(node, f"c{number}-{each}", chance.getrandbits(32))
            for number, node in enumerate(nodes)
            for each in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        try:
            for turn in range(restarts):
                pause.wait(chance.uniform(0, 0.3))  # the moment is what varies
                node = nodes[turn % NODES]
                assert node.quit() == 0
                assert not [line for line in node.log if "Traceback" in line]
                node.start()
        finally:
            for caller in callers:
                caller.close()
        wait_until(
            lambda: all(node.is_all_in() for node in nodes) and not nodes[0].count("work"),
            "all have run",
        )
        listed = {job["id"]: job for job in nodes[0].jobs(jobtype="work")}
        runs = Counter(
            line for node in nodes for line in (node.folder / "runs").read_text().split()
        )
        assert all(node.quit() == 0 for node in nodes)
    acknowledged = {id_: line for caller in callers for id_, line in caller.acknowledged.items()}
    unanswered = set().union(*(caller.unanswered for caller in callers))
    assert acknowledged.keys() <= listed.keys(), "acknowledged jobs are lost"
    assert {job["outcome"] for job in listed.values()} == {"ok"}
    assert {job["crashes"] for job in listed.values()} == {0}
    assert set(acknowledged.values()) <= runs.keys() <= {*acknowledged.values(), *unanswered}
    assert set(runs.values()) == {1}, "a short job ran twice"
    proof.report(
        restarts=restarts, jobs=len(listed), unanswered=len(unanswered), lost=0, run_twice=0
    )
