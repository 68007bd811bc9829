"""Redis acknowledges before it has synced or replicated (aphyr.com/posts/283-jepsen-redis): queues
on top of it lose acknowledged jobs at a failover. PostgreSQL with synchronous_commit = off does so,
too.

slimq: what the answer promises is in the journal, synced by the node. Whatever the store forgets
in a crash is brought in again from there; and a store that acknowledges too early is warned of.
"""

from __future__ import annotations

from pathlib import Path

from node_kit import wait_until
from outage_kit import BACK_S, MakeServer, Work, node_at


def test_a_server_that_acknowledges_too_early_is_warned_of_and_loses_no_accepted_job(
    make_postgres: MakeServer, tmp_path: Path
) -> None:
    settings = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    server = make_postgres(settings=settings)
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        server.execute("CHECKPOINT")  # of no journal is the handler, and it is to stay
        store = node.call("GET", "/status")["store"]
        assert store["synchronous_commit"] == "off"
        assert any("synchronous_commit is off" in warning for warning in store["warnings"])
        warned = '"event":"store.warning","reason":"synchronous_commit is off'
        wait_until(lambda: any(warned in line for line in node.log), "it is in the log")
        for _ in range(3):
            work.add(50)
            wait_until(work.is_done, "the jobs are done")
            server.kill()  # and with it what it has acknowledged last
            server.start()
        work.end(timeout_s=2 * BACK_S)
