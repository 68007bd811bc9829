"""bensheldon/good_job#52, #1599, #90: jobs were held by advisory locks of a session. Behind a
PgBouncer that pools transactions, or when a connection broke, several threads ran the same job.
#296: a worker without its database span at full speed.

slimq: a lease is a row, not a session. Any connection may break or be another one each time; and
a node waits between two attempts to reach its store.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

from node_kit import wait_until
from outage_kit import (
    BACK_S,
    CPU_MAX,
    CPU_S,
    MakePgBouncer,
    Work,
    cpu_of,
    cut_connections,
    left_of,
    node_at,
)

from postgres_kit import Server


def test_behind_a_pgbouncer_that_pools_transactions_each_job_runs_once(
    server: Server, make_pgbouncer: MakePgBouncer, tmp_path: Path, chance: random.Random
) -> None:
    pooler = make_pgbouncer(server, size=3)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with node_at(folders[0], pooler.url()) as node, node_at(folders[1], pooler.url()) as other:
        work = Work(node)
        work.open()
        pause = threading.Event()
        for _ in range(10):
            work.add(20)
            other.add("work", [b"of-the-other"])
            pause.wait(chance.random() * 0.1)
            cut_connections(server)
        pooler.stop()
        wait_until(node.problems, "the node sees that the pooler is gone")
        work.add(20)
        assert cpu_of(node, CPU_S) < CPU_MAX
        pooler.start()
        wait_until(
            lambda: other.is_all_in() and node.is_all_in() and left_of(node) == 0,
            "all jobs are done",
            timeout_s=BACK_S,
        )
        assert other.quit() == 0
        jobs = {job["id"]: job["outcome"] for job in node.jobs(jobtype="work")}
        assert jobs.keys() >= work.lines.keys()
        assert set(jobs.values()) == {"ok"}
        runs = work.runs()
        assert runs.pop("of-the-other") == 10
        assert set(runs.values()) == {1}
        assert node.quit() == 0
