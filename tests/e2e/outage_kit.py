"""What the tests of stores in trouble share: jobs whose runs are noted, and what a node says."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from node_kit import Node, wait_until

from postgres_kit import PgBouncer, Server

MakeServer = Callable[..., Server]
MakePgBouncer = Callable[..., PgBouncer]
BACK_S = 10  # so soon after the server's return its nodes have caught up with a small backlog
CPU_MAX = 0.05  # of one processor while the server is down; measured: 0.001 to 0.005
CPU_S = 5  # and in 10 ms steps: long enough for 25 of them
TICKS = os.sysconf("SC_CLK_TCK")
PASSWORD = "s3cret-canary"


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("SLIMQ_TEST_SEED") or os.urandom(4).hex()
    print(f"SLIMQ_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def server(make_postgres: MakeServer) -> Server:
    return make_postgres()


class Work:
    """Jobs of a node whose runs are noted in a file, by a command that waits for a gate."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.notes = node.folder / "notes"
        self.gate = node.folder / "gate"
        self.lines: dict[str, str] = {}  # id: line
        script = (
            f'lines=$(cat); echo "$lines" >>{self.notes}; until [ -e {self.gate} ]; do sleep 0.05; '
            "done; echo \"$lines\" | sed 's/^/200 /'"
        )
        node.put("work", lang="exec", body=["sh", "-c", script], options={"batch_size": 20})

    def add(self, count: int = 1) -> list[str]:
        """Add jobs; assert that they are accepted, and soon."""
        lines = [f"line-{len(self.lines) + number}" for number in range(count)]
        answer = self.node.post("work", [line.encode() for line in lines], timeout=4)
        assert answer.status == 202, answer
        assert answer.headers["slimq-durability"] == "journal"
        ids: list[str] = answer.document["ids"]
        self.lines |= dict(zip(ids, lines, strict=True))
        return ids

    def runs(self) -> Counter[str]:
        """Return how often each line was run."""
        return Counter(self.notes.read_text().split() if self.notes.exists() else [])

    def open(self) -> None:
        self.gate.touch()

    def is_done(self) -> bool:
        answer = self.node.ask("GET", "/types/work?client=main")
        return answer.status == 200 and int(answer.document["ok"]) == len(self.lines)

    def end(self, timeout_s: float = BACK_S) -> None:
        """Assert that all jobs get done, each OK with its own line, and that the node is well."""
        wait_until(self.is_done, "all jobs are done", timeout_s=timeout_s)
        found = {job["id"]: job for job in self.node.jobs(jobtype="work")}
        assert found.keys() == self.lines.keys()
        assert {job["outcome"] for job in found.values()} == {"ok"}
        some = [*self.lines][:: max(1, len(self.lines) // 10)]
        assert [self.node.job(id_)["result"] for id_ in some] == [self.lines[id_] for id_ in some]
        wait_until(lambda: not self.node.problems(), "/healthz says ok")
        assert self.runs().keys() == set(self.lines.values())
        assert self.node.quit() == 0


@contextmanager
def node_at(folder: Path, url: str, **settings: str) -> Iterator[Node]:
    with Node(folder, SLIMQ_STORE__URL=url, **settings) as node:
        try:
            yield node
        finally:
            print("".join(node.log[-20:]))
        assert PASSWORD not in "".join(node.log)


def says(node: Node, words: str) -> None:
    """Assert that a node whose store is in trouble accepts, and says so everywhere."""
    wait_until(lambda: re.search(words, node.problems()), f"/healthz says {words!r}")
    assert re.search(words, node.call("GET", "/status")["node"]["store"]["error"])
    assert node.call("GET", "/readyz") == {"status": "ready"}


def refuses_questions(node: Node, within_s: float) -> None:
    began = time.monotonic()
    for path in ("/jobs", "/types", "/handlers"):
        refusal = node.ask("GET", path)
        assert (refusal.status, refusal.document["type"]) == (503, "/problems/store-unavailable")
        assert "\n" not in refusal.document["detail"]
    assert time.monotonic() - began < within_s


def left_of(node: Node) -> int | None:
    """Return how many jobs are not done; None while that cannot be asked."""
    counts = node.ask("GET", "/types/work?client=main")
    if counts.status != 200:
        return None
    return int(counts.document["waiting"]) + int(counts.document["running"])


def cpu_of(node: Node, seconds: float) -> float:
    """Return what part of a processor a node uses for some time."""

    def used() -> int:
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    begun, before = time.monotonic(), used()
    threading.Event().wait(seconds)  # it is a rate: time must pass
    return (used() - before) / TICKS / (time.monotonic() - begun)


def memory_of(node: Node) -> int:
    """Return how much memory a node has, in bytes."""
    pages = Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cut_connections(server: Server) -> None:
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
