"""Nodes that are ended under load: what is answered is kept, what is not answered is not taken.

The seed of each test is printed with a failure; `SLIMQ_TEST_SEED` sets it.
"""

from __future__ import annotations

import http.client
import random
import time
from pathlib import Path

from load_kit import NO_ANSWER, Load
from node_kit import Node, wait_until

ENDS = 3
LATE_STARTS = 8


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
