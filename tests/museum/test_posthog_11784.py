"""PostHog/posthog#11784: jobs were lost when the database was down at the moment of enqueueing.

slimq: accepting needs the journal and nothing else. While the store is down or locked every job is
accepted, at the same level of durability, and runs when the store is back.
"""

from __future__ import annotations

from pathlib import Path

import apsw
from node_kit import ECHO, Node, wait_until
from outage_kit import Work, node_at, says
from sqlite_kit import raw

from postgres_kit import Server

JOBS = 50


def test_while_postgresql_is_stopped_every_job_is_accepted(server: Server, tmp_path: Path) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        server.stop()
        says(node, "Connection refused")
        for _ in range(JOBS):
            work.add()
        server.start()
        work.end()
        assert set(work.runs().values()) == {1}


def test_while_another_process_locks_sqlite_every_job_is_accepted(tmp_path: Path) -> None:
    with Node(tmp_path) as node, raw(node.store) as db:
        node.put("work", lang="exec", body=ECHO)
        db.setbusytimeout(10_000)
        lock(db)
        for number in range(JOBS):
            answer = node.post("work", [b"%d" % number])
            assert (answer.status, answer.headers["slimq-durability"]) == (202, "journal")
        db.execute("ROLLBACK")
        counts = lambda: node.call("GET", "/types/work?client=main")  # noqa: E731
        wait_until(lambda: node.is_all_in() and counts()["ok"] == JOBS, "all have run")


def lock(db: apsw.Connection) -> None:
    db.execute("BEGIN EXCLUSIVE")
