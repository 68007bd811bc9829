"""A node that is killed with SIGKILL at random moments, also while it starts: nothing that was
acknowledged is lost, no request is there in part, and whatever ran twice was hit by a kill.

What is running here is the command `slimq serve`, with callers and commands beside it.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from load_kit import Load
from node_kit import ECHO, Node, wait_until

from proof_kit import Proof

START_S = 0.4  # about what a start takes
BATCH = 20  # jobs that a kill hits run one by one after it: not too many
STILLBORN = 0.2  # the share of kills that are followed by one while the node starts


class Ran:
    """What commands were given, in a folder that no node knows: one file for each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.command = ["sh", "-c", f'tee "{folder}/$SLIMQ_SYSID-$$" | sed "s/^/200 /"']

    def counts(self) -> Counter[bytes]:
        """Return how often each line was given to a command as a whole."""
        lines: Counter[bytes] = Counter()
        for path in self._folder.iterdir():
            lines.update(path.read_bytes().split(b"\n")[:-1])  # the last was cut, or is empty
        return lines


def check_total(node: Node, load: Load) -> dict[str, Any]:
    """Assert that all that was acknowledged is done, and of the rest whole requests only.
    Return all jobs by id."""
    acked = load.acked()
    assert load.count() == len(acked), "an id was given twice"
    listed = list(node.jobs(jobtype="work"))
    jobs = {job["id"]: job for job in listed}
    assert len(listed) == len(jobs), "a job is listed twice"
    assert {job["state"] for job in listed} == {"done"}
    assert acked.keys() - jobs.keys() == set(), "acknowledged jobs are lost"
    counts = node.call("GET", "/types/work?client=main")
    assert counts["ok"] + counts["error"] == len(jobs)
    unknown = {request for caller in load.callers for request in caller.unknown}
    parts: dict[str, list[int]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for id_ in jobs.keys() - acked.keys():
        request, size, index = node.job(id_)["data"].split()
        assert request in unknown, f"{request} is there, but nobody sent it or it was refused"
        parts[request].append(int(index))
        sizes[request] = int(size)
    for request, indexes in parts.items():
        assert sorted(indexes) == list(range(sizes[request])), f"{request} is there in part"
    return jobs


def check_runs(jobs: dict[str, Any], acked: dict[str, bytes], ran: Counter[bytes]) -> int:
    """Assert that every job ran, and more than once only when a kill hit it. Return how many
    runs there were more than jobs."""
    for job in jobs.values():
        assert job["failures"] == 0
        is_dead = (job["status"], job["crashes"]) == (521, 3)
        assert job["status"] == 200 or is_dead, job
    for id_, line in acked.items():
        job = jobs[id_]
        is_ok = job["status"] == 200
        assert is_ok <= ran[line] <= job["crashes"] + is_ok, f"it ran {ran[line]} times: {job}"
    return sum(count - 1 for count in ran.values())


@pytest.mark.proof("T1")
def test_no_acknowledged_line_is_lost_and_no_request_is_half_there_after_kills(
    tmp_path: Path, proof: Proof
) -> None:
    chance = random.Random(proof.seed)
    ran = Ran(tmp_path / "ran")
    wanted = proof.size(submission=30, release=800)
    kills = 0
    with Node(tmp_path) as node:
        node.put("work", lang="exec", body=ran.command, options={"batch_size": BATCH})
        node.call("PATCH", "/types/work", b'{"concurrency":2}')
        load = Load(node, chance)
        try:
            while kills < wanted:
                before = load.count()
                wait_until(lambda: load.count() > before, "jobs are acknowledged")  # noqa: B023
                time.sleep(chance.uniform(0, 0.2))  # the moment of the kill is what varies
                load.is_up.clear()
                node.kill()
                kills += 1
                if chance.random() < STILLBORN:
                    node.start_and_kill(chance.uniform(0, START_S))
                    kills += 1
                node.start()
                load.is_up.set()
        finally:
            load.end()
        assert all(caller.refused == [] for caller in load.callers)
        node.put("work", lang="exec", body=ran.command, options={"batch_size": 1000})
        wait_until(lambda: node.has_run("work"), "all have run", timeout_s=600)
        jobs = check_total(node, load)
        acked = load.acked()
        reruns = check_runs(jobs, acked, ran.counts())
        for id_ in chance.sample(sorted(acked), min(200, len(acked))):
            assert node.job(id_)["data"].encode() == acked[id_]
        assert node.quit() == 0
    figures = {"kills": kills, "acked": len(acked), "reruns": reruns}
    proof.report(**figures, lost=0, unexpected=0, partial=0)


@pytest.mark.proof("T1")
def test_a_job_has_each_of_its_children_once_however_often_the_node_was_killed(
    tmp_path: Path, proof: Proof
) -> None:
    chance = random.Random(proof.seed)
    kills = proof.size(submission=4, release=200)
    parent_count = 50 * kills
    script = (
        'while read -r line; do for n in 0 1 2; do echo "#J: child|$line $n"; done;'
        " echo 200; sleep 0.02; done"
    )
    with Node(tmp_path) as node:
        node.put("parent", lang="exec", body=["sh", "-c", script], options={"batch_size": 5})
        node.put("child", lang="exec", body=ECHO)
        parents = node.add("parent", [b"%d" % number for number in range(parent_count)])
        for _ in range(kills):
            before = finished(node)
            wait_until(lambda: finished(node) > before, "jobs run")  # noqa: B023
            time.sleep(chance.uniform(0, 0.2))  # the moment of the kill is what varies
            node.kill()
            node.start()
        wait_until(lambda: node.has_run("parent", "child"), "all have run", timeout_s=120)
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
    proof.report(kills=kills, parents=parent_count, children=len(children), twice=0)


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
