"""celery/celery#8030, #8990, #9054, #10205: after the broker was away for a moment, a worker was
up, looked well, and consumed nothing more. HangfireIO/Hangfire.PostgreSql#392 and #410 are the
same, with LISTEN.

slimq: a node finds its store again by itself, whatever broke, and says so while it cannot.
"""

from __future__ import annotations

import random
from pathlib import Path

from node_kit import wait_until
from outage_kit import Work, cut_connections, node_at, says

from postgres_kit import Server

CUTS = 8
RESTARTS = 2
RESUMES_S = 5


def test_after_every_outage_of_the_store_the_next_job_runs_within_seconds(
    server: Server, tmp_path: Path, chance: random.Random
) -> None:
    events = ["cut"] * CUTS + ["restart"] * RESTARTS
    chance.shuffle(events)
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        for event in events:
            if event == "cut":
                cut_connections(server)
            else:
                server.stop("immediate")
                says(node, "Connection refused")
                server.start()
            work.add()
            wait_until(work.is_done, f"a job runs after {event}", timeout_s=RESUMES_S)
        work.end()
