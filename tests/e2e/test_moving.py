"""Nodes whose store is moved go on where they were, and accept all the time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from node_kit import Node, wait_until

DATA = "SLIMQ_STORE__PATH"
KEEP = ["sh", "-c", "tee -a runs | sed 's/^/200 /'"]  # remembers each line that it ran


class Caller:
    """Adds lines to a node, one after the other, until it is told to end."""

    def __init__(self, node: Node, name: str) -> None:
        self.lines: list[str] = []
        self.ids: list[str] = []
        self._node, self._name = node, name
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            line = f"{self._name}-{len(self.ids)}"
            self.ids += self._node.add("keep", [line.encode()])
            self.lines.append(line)

    def has_added(self, count: int) -> None:
        wait_until(lambda: len(self.ids) >= count or not self._thread.is_alive(), "lines are added")

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def move(source: str, target: str) -> dict[str, int]:
    """Run the command as a user does; return how many jobs are of which state."""
    words = [
        sys.executable,
        "-m",
        "slimq",
        "db",
        "copy",
        "--json",
        "--from",
        source,
        "--to",
        target,
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["jobs"]
    assert isinstance(jobs, dict)
    return jobs


@pytest.mark.parametrize("way", ["to postgres", "to a file"])
def test_a_node_accepts_while_its_store_is_moved_and_every_line_runs_once(
    tmp_path: Path, database: str, way: str
) -> None:
    file = str(tmp_path / "jobs.db")
    names = {"SLIMQ_STORE__PATH": file}, {"SLIMQ_STORE__URL": database}
    before, after = names if way == "to postgres" else names[::-1]
    source, target = (*before.values(), *after.values())
    lines: list[str] = []
    ids: list[str] = []
    with Node(tmp_path, **before) as node:
        node.put("keep", lang="exec", body=KEEP)
        lines += [f"done-{number}" for number in range(20)]
        ids += node.add("keep", [line.encode() for line in lines])
        wait_until(lambda: node.has_run("keep"), "the first lines are done")
        caller = Caller(node, "before")  # while jobs run, and then while none does
        caller.has_added(20)
        node.call("POST", "/stop")
        moved = move(source, target)
        assert moved["running"] == 0
        assert moved["ok"] >= 20
        caller.has_added(len(caller.ids) + 20)  # the store is closed now
        caller.end()
        wait_until(lambda: "to be moved to" in node.problems(), "the node says why")
        assert node.quit() == 0
        lines += caller.lines
        ids += caller.ids
    with Node(tmp_path, **after) as node:
        caller = Caller(node, "after")
        caller.has_added(20)
        caller.end()
        node.call("POST", "/start")
        lines += caller.lines
        ids += caller.ids
        wait_until(lambda: node.has_run("keep"), "all are done")
        assert {job["id"] for job in node.jobs(outcome="ok")} == set(ids)
        assert node.quit() == 0
    (runs,) = tmp_path.rglob("runs")
    assert Counter(runs.read_text().splitlines()) == Counter(lines)
