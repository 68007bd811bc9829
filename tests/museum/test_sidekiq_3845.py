"""sidekiq/sidekiq#3845, #5109: a deploy sends SIGTERM, and SIGKILL when that takes too long. Jobs
that were not pushed back to Redis by then were lost.

slimq: nothing needs to be pushed back. A running job is leased; killed at any moment of its end, a
node takes its jobs back when it starts.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

from node_kit import Node, wait_until

DELAYS_S = [0, 0.005, 0.1, 0.5]


def test_killed_at_any_moment_after_sigterm_nothing_is_lost(
    tmp_path: Path, chance: random.Random
) -> None:
    gate = tmp_path / "gate"
    script = f"until [ -e {gate} ]; do sleep 0.02; done; sed 's/^/200 /'"
    pause = threading.Event()
    with Node(tmp_path) as node:
        node.put("work", lang="exec", body=["sh", "-c", script], options={"batch_size": 3})
        ids = []
        for delay in DELAYS_S:
            ids += node.add("work", [b"%d" % number for number in range(chance.randint(1, 10))])
            wait_until(lambda: running(node), "some run")
            node.process.terminate()
            pause.wait(delay)  # what the platform gives it
            node.kill()
            node.start()
        gate.touch()
        ended = [node.done(id_) for id_ in ids]
        # A job that was killed with three nodes is taken for poison: it is done, and says so.
        assert {job["status"] for job in ended} <= {200, 521}
        assert all(job["crashes"] >= 3 for job in ended if job["status"] == 521)
        assert sum(job["status"] == 200 for job in ended) > 0
        assert node.call("GET", "/types/work?client=main")["waiting"] == 0


def running(node: Node) -> int:
    count: int = node.call("GET", "/types/work?client=main")["running"]
    return count
