"""T4 on PostgreSQL: a node accepts at a steady rate, whatever its store does. PostgreSQL is up,
then stopped, then the engine is stopped besides; at last all comes back, and everything has run
once.

How long answers took in these three times is reported and not asserted: how busy the machine
was besides is in these figures.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node_kit import ECHO, Node, wait_until
from outage_kit import memory_of, node_at

from postgres_kit import Server
from proof_kit import Proof

CALLERS = 4
RATE = 300.0  # requests a second, of all callers
LINES = 2  # of a request
MEMORY_MAX = 50 << 20
DRAIN_S = 120


class Caller(threading.Thread):
    """Sends requests at a steady rate over one connection, and never sends one again. One that
    is late makes those behind it later, not more frequent."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__(name=name)
        self._node = node
        self._ended = threading.Event()
        self.sent: set[str] = set()
        self.rejected: list[str] = []
        self.took_ms: list[float] = []

    def run(self) -> None:
        host = self._node.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=10)
        due, number = time.monotonic(), 0
        while not self._ended.wait(max(0, due - time.monotonic())):
            lines = [f"{self.name}-{number + each}" for each in range(LINES)]
            number += LINES
            sent_at = time.monotonic()
            try:
                connection.request("POST", "/add?jobtype=work", "".join(f"{x}\n" for x in lines))
                answer = connection.getresponse()
                document = json.load(answer)
                if answer.status != 202 or document["count"] != LINES:
                    self.rejected.append(f"{answer.status} {document}")
            except (OSError, http.client.HTTPException) as error:
                self.rejected.append(repr(error))
                connection.close()  # the next request opens it again
            self.sent.update(lines)
            self.took_ms.append((time.monotonic() - sent_at) * 1000)
            due = max(due + CALLERS / RATE, sent_at)
        connection.close()

    def end(self) -> None:
        self._ended.set()
        self.join(30)


class Phase:
    """What callers met while things were in one way."""

    def __init__(self, callers: list[Caller]) -> None:
        self._callers = callers
        self._since = [len(caller.took_ms) for caller in callers]

    def over(self, name: str) -> dict[str, float]:
        """Return how long answers took since the start of the phase."""
        pairs = zip(self._callers, self._since, strict=True)
        times = sorted(took for caller, since in pairs for took in caller.took_ms[since:])
        ranks = {"p50": len(times) // 2, "p99": len(times) * 99 // 100, "max": -1}
        return {f"{rank}_{name}_ms": round(times[at], 2) for rank, at in ranks.items()}


@pytest.mark.proof("T4")
@pytest.mark.timeout(300)
def test_no_request_is_rejected_while_postgresql_is_stopped_and_all_run_once_it_is_back(
    make_postgres: Callable[..., Server], tmp_path: Path, proof: Proof
) -> None:
    seconds = proof.size(submission=8, release=300)  # of each phase
    server = make_postgres(durable=True)
    with node_at(tmp_path, server.url()) as node:
        node.put("work", lang="exec", body=ECHO, options={"batch_size": 1000})
        callers = [Caller(node, f"c{number}") for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        pause = threading.Event()
        try:
            up = Phase(callers)
            pause.wait(seconds)
            took = up.over("up")
            server.stop()
            wait_until(node.problems, "the node knows that its store is gone")
            before = memory_of(node)
            down = Phase(callers)
            pause.wait(seconds)
            took |= down.over("down")
            node.call("POST", "/stop")
            stopped = Phase(callers)
            pause.wait(seconds)
            took |= stopped.over("down_and_stopped")
            grown = memory_of(node) - before
        finally:
            for caller in callers:
                caller.end()
        backlog = node.call("GET", "/status")["node"]["journal"]["pending_bytes"]
        server.start()
        node.call("POST", "/start")
        began = time.monotonic()
        sent = {line for caller in callers for line in caller.sent}
        query = "SELECT convert_from(data, 'UTF8'), attempt FROM slimq.done WHERE status = 200"
        count = "SELECT count(*) FROM slimq.done"
        wait_until(
            lambda: server.execute(count)[0][0] >= len(sent), "all is done", timeout_s=DRAIN_S
        )
        drained_s = time.monotonic() - began
        done = server.execute(query)
        rejected = [why for caller in callers for why in caller.rejected]
        proof.report(
            seconds_without_postgresql=2 * seconds,
            jobs=len(sent),
            requests_per_s=round(len(sent) / LINES / (3 * seconds)),
            rejected=len(rejected),
            **took,
            memory_grown_mb=round(grown / (1 << 20), 1),
            backlog_bytes=backlog,
            drained_s=round(drained_s, 1),
            lost=len(sent - {line for line, _ in done}),
        )
        assert rejected == []
        assert grown < MEMORY_MAX
        assert sorted(line for line, _ in done) == sorted(sent)
        assert node.quit() == 0
