"""Nodes that are killed or ended under load: nothing acknowledged is lost, nothing is half done.

The seed of each test is printed with a failure; `SLIMQ_TEST_SEED` sets it.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
import urllib.error
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from node_kit import ECHO, Answer, Node, wait_until

CALLERS = 8
KILLS = 16
RUNNING_KILLS = 4
PARENTS = 200
ENDS = 3
LATE_STARTS = 8
# What a caller sees of a node that dies, or that is gone.
NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("SLIMQ_TEST_SEED") or os.urandom(4).hex()
    print(f"SLIMQ_TEST_SEED={seed}")
    return random.Random(seed)


class Caller(threading.Thread):
    """Adds jobs until it is told to stop. Each line says which request it is of, how many
    lines that has, and which of them it is.

    Some requests have an Idempotency-Key and are sent again until they are answered. The
    others that got no answer are `unknown`: they may be in, but as a whole. A caller
    without patience stops at the first request that is not answered.
    """

    def __init__(self, load: Load, name: str, seed: int, *, is_patient: bool) -> None:
        super().__init__(name=name)
        self._load = load
        self._chance = random.Random(seed)
        self._is_patient = is_patient
        self._stopped = threading.Event()
        self.acked: dict[str, bytes] = {}  # id: line
        self.unknown: set[str] = set()
        self.refused: list[Answer] = []
        self.cut: list[BaseException] = []
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                number += 1
                self._send(f"{self.name}-{number}")
        except BaseException as error:
            self.failure = error

    def _send(self, request: str) -> None:
        count = self._chance.choice((1, 1, 2, 10, 40))
        lines = [f"{request} {count} {index}".encode() for index in range(count)]
        key = request if self._chance.random() < 0.3 else ""
        options = "&durability=buffered" if self._chance.random() < 0.3 else ""
        while True:
            self._load.is_up.wait()
            try:
                answer = self._load.node.post("work", lines, options, timeout=20, key=key)
            except NO_ANSWER as error:
                self.cut.append(error)
                if not self._is_patient:
                    self.stop()
                if not key or self._stopped.is_set():
                    self.unknown.add(request)
                    return
            else:
                self._take(answer, lines)
                return

    def _take(self, answer: Answer, lines: list[bytes]) -> None:
        if answer.status == 202:
            assert answer.document["count"] == len(lines)
            self.acked.update(zip(answer.document["ids"], lines, strict=True))
        else:
            self.refused.append(answer)


class Load:
    """Several callers of one node. `is_up` is cleared while the node is down."""

    def __init__(
        self, node: Node, chance: random.Random, name: str = "c", *, is_patient: bool = True
    ) -> None:
        self.node = node
        self.is_up = threading.Event()
        self.is_up.set()
        self.callers = [
            Caller(self, f"{name}{number}", chance.getrandbits(32), is_patient=is_patient)
            for number in range(CALLERS)
        ]
        for caller in self.callers:
            caller.start()

    def acked(self) -> dict[str, bytes]:
        return {id_: line for caller in self.callers for id_, line in list(caller.acked.items())}

    def count(self) -> int:
        return sum(len(caller.acked) for caller in self.callers)

    def end(self) -> None:
        self.is_up.set()
        for caller in self.callers:
            caller.stop()
        self.join()

    def join(self) -> None:
        for caller in self.callers:
            caller.join(60)
        failures = [caller.failure for caller in self.callers if caller.failure]
        assert failures == []


def check_total(node: Node, load: Load, chance: random.Random) -> None:
    """Assert that all that was acknowledged ended OK once, and of the rest whole requests."""
    acked = load.acked()
    assert load.count() == len(acked), "an id was given twice"
    listed = [job["id"] for job in node.jobs(jobtype="work", outcome="ok")]
    assert node.call("GET", "/types/work?client=main")["ok"] == len(listed)
    assert list(node.jobs(jobtype="work", outcome="error")) == []
    assert len(listed) == len(set(listed)), "a job is listed twice"
    assert set(acked) - set(listed) == set(), "acknowledged jobs are lost"
    unknown = {request for caller in load.callers for request in caller.unknown}
    parts: dict[str, list[int]] = defaultdict(list)
    counts: dict[str, int] = {}
    for id_ in set(listed) - set(acked):
        request, count, index = node.job(id_)["data"].split()
        assert request in unknown, f"{request} is there, but nobody sent it or it was refused"
        parts[request].append(int(index))
        counts[request] = int(count)
    for request, indexes in parts.items():
        assert sorted(indexes) == list(range(counts[request])), f"{request} is there in part"
    for id_ in chance.sample(sorted(acked), min(200, len(acked))):
        assert node.job(id_)["data"].encode() == acked[id_]


def test_no_acknowledged_line_is_lost_and_no_request_is_half_there_after_kills(
    tmp_path: Path, chance: random.Random
) -> None:
    with Node(tmp_path) as node:
        load = Load(node, chance)
        try:
            for _ in range(KILLS):
                before = load.count()
                wait_until(lambda: load.count() > before, "jobs are acknowledged")  # noqa: B023
                time.sleep(chance.uniform(0, 0.3))  # the moment of the kill is what varies
                load.is_up.clear()
                node.kill()
                node.start()
                load.is_up.set()
        finally:
            load.end()
        assert all(caller.refused == [] for caller in load.callers)
        wait_until(node.is_all_in, "the journal is in the store")
        node.put("work", lang="exec", body=ECHO, options={"batch_size": 1000})
        wait_until(lambda: node.has_run("work"), "all have run")
        check_total(node, load, chance)
        assert node.quit() == 0


def test_a_job_has_each_of_its_children_once_however_often_the_node_was_killed(
    tmp_path: Path, chance: random.Random
) -> None:
    script = (
        'while read -r line; do for n in 0 1 2; do echo "#J: child|$line $n"; done;'
        " echo 200; sleep 0.02; done"
    )
    with Node(tmp_path) as node:
        node.put("parent", lang="exec", body=["sh", "-c", script], options={"batch_size": 5})
        node.put("child", lang="exec", body=ECHO)
        parents = node.add("parent", [b"%d" % number for number in range(PARENTS)])
        for _ in range(RUNNING_KILLS):
            before = finished(node)
            wait_until(lambda: finished(node) > before, "jobs run")  # noqa: B023
            time.sleep(chance.uniform(0, 0.2))  # the moment of the kill is what varies
            node.kill()
            node.start()
        wait_until(lambda: node.has_run("parent", "child"), "all have run")
        ended = {job["id"]: job for job in node.jobs(jobtype="parent")}
        assert ended.keys() == set(parents)
        assert sum(job["crashes"] for job in ended.values()) > 0, "no kill hit a running job"
        ok = {id_ for id_, job in ended.items() if job["status"] == 200}
        assert all(ended[id_]["crashes"] == 3 for id_ in set(parents) - ok)
        children = list(node.jobs(jobtype="child", outcome="ok"))
        per_parent = Counter(job["parent"] for job in children)
        assert {per_parent[id_] for id_ in ok} == {3}
        assert max(per_parent.values()) == 3
        data = Counter(node.job(job["id"])["data"] for job in children)
        wanted = {f"{parents.index(id_)} {n}" for id_ in ok for n in range(3)}
        assert max(data.values()) == 1
        assert wanted <= data.keys()


def test_what_a_killed_node_left_running_is_gone_before_its_job_runs_again(tmp_path: Path) -> None:
    script = "echo $$ >> pids; sleep 600 & echo $! >> pids; [ -e again ] || wait; echo 200"
    pids = tmp_path / "pids"
    with Node(tmp_path) as node:
        node.put("work", lang="exec", body=["sh", "-c", script])
        (id_,) = node.add("work", [b"x"])
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "it runs")
        left = [int(pid) for pid in pids.read_text().split()]
        node.kill()
        assert all(map(is_running, left)), "nothing is left to be killed"
        (tmp_path / "again").touch()
        node.start()
        assert not any(map(is_running, left))
        assert node.done(id_)["status"] == 200
        assert [line for line in node.log if '"event":"commands.killed"' in line]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # which is dead, and only waits to be buried


def finished(node: Node) -> int:
    count: int = node.call("GET", "/status")["node"]["counters"]["finished"]["ok"]
    return count


def test_sigterm_under_load_ends_with_0_and_what_is_not_answered_is_not_taken(
    tmp_path: Path, chance: random.Random
) -> None:
    acked: dict[str, bytes] = {}
    with Node(tmp_path) as node:
        ran = tmp_path / "ran"
        node.put("work", lang="exec", body=["sh", "-c", f"tee -a {ran} | sed 's/^/200 /'"])
        for turn in range(ENDS):
            load = Load(node, chance, f"t{turn}-", is_patient=False)
            try:
                wait_until(lambda: load.count() > 100, "jobs are acknowledged")  # noqa: B023
                time.sleep(chance.uniform(0, 0.2))  # the moment of the end is what varies
                assert node.quit() == 0, node.log
                load.join()  # each has met the end
            finally:
                load.end()
            assert not [line for line in node.log if "Traceback" in line]
            for caller in load.callers:
                assert {answer.document["type"] for answer in caller.refused} <= {
                    "/problems/shutting-down"
                }
                assert not [e for e in caller.cut if isinstance(e, http.client.IncompleteRead)]
            acked |= load.acked()
            node.start()
        wait_until(lambda: node.has_run("work"), "all have run")
        listed = [job["id"] for job in node.jobs(jobtype="work", outcome="ok")]
        assert len(listed) == len(set(listed))
        assert set(listed) == set(acked)
        assert sorted(ran.read_bytes().splitlines()) == sorted(acked.values()), "not each ran once"


def test_a_job_that_is_started_while_the_node_ends_runs_once_and_waits_for_no_lease(
    tmp_path: Path, chance: random.Random
) -> None:
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"tee -a {ran} | sed 's/^/200 /'; sleep 0.2"]
    with Node(tmp_path) as node:
        node.put("work", lang="exec", body=command)
        for turn in range(LATE_STARTS):
            (id_,) = node.add("work", [b"%d" % turn])
            time.sleep(chance.uniform(0, 0.004))  # about when the job is started
            assert node.quit() == 0
            node.start()
            job = node.call("GET", f"/jobs/{id_}?wait=5")
            assert (job["state"], job["crashes"]) == ("done", 0)
        assert ran.read_text().split() == [str(turn) for turn in range(LATE_STARTS)]


def test_after_sigterm_no_more_is_accepted_and_running_jobs_end(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        gate, started = tmp_path / "gate", tmp_path / "started"
        script = f"touch {started}; until [ -e {gate} ]; do sleep 0.02; done; sed 's/^/200 /'"
        node.put("gated", lang="exec", body=["sh", "-c", script])
        (id_,) = node.add("gated", [b"x"])
        wait_until(started.exists, "the job runs")
        node.process.terminate()
        wait_until(lambda: takes_no_more(node), "it takes no more", timeout_s=5)
        assert node.process.poll() is None, "it did not wait for the job"
        gate.touch()
        assert node.ended() == 0
        node.start()
        job = node.done(id_)
        assert (job["result"], job["attempt"]) == ("x", 1)


def takes_no_more(node: Node) -> bool:
    """Try to add a job; return whether it was refused."""
    try:
        return node.post("late", [b"y"]).status == 503
    except NO_ANSWER:
        return True
