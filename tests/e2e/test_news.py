"""Jobs that others add to a PostgreSQL: a node starts them at once, and without news soon."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from node_kit import ECHO, Node, wait_until

from postgres_kit import PgBouncer, Server

AT_ONCE_MS = 250  # a node that only looks every second takes 500 on average
SOON_MS = 3_000
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


class App:
    """An application that shares the database. Its clock is that of the server."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url)

    def add(self, jobtype: str) -> tuple[str, float]:
        """Add a job; return its id, and when that was committed, in ms."""
        id_ = self.ask("SELECT slimq.add('main', %s, '{line}')", jobtype)
        self._db.commit()
        return id_, time.time() * 1000

    def ask(self, query: str, *values: object) -> Any:
        row = self._db.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def delay(self, id_: str, since: float) -> float:
        """Return after how many ms a job that is done was started."""
        started = self.ask("SELECT started_at FROM slimq.done WHERE id = %s", id_)
        self._db.commit()
        return float(started) - since

    def is_done(self, id_: str) -> bool:
        count = self.ask("SELECT count(*) FROM slimq.done WHERE id = %s", id_)
        self._db.commit()
        return bool(count == 1)

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(url: str, roles: str = "accept,run") -> Node:
        folder = tmp_path / f"node{len(nodes)}"
        folder.mkdir()
        nodes.append(Node(folder, SLIMQ_STORE__URL=url, SLIMQ_SERVER__ROLES=roles))
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()


def test_what_an_application_commits_a_node_starts_at_once(
    database: str, make_node: Callable[..., Node]
) -> None:
    node = make_node(database)
    node.put("echo", lang="exec", body=ECHO)
    with closing(App(database)) as app:
        delays = []
        for _ in range(10):
            id_, committed = app.add("echo")
            assert node.done(id_)["runs"][-1]["status"] == 200
            delays.append(app.delay(id_, committed))
    assert statistics.median(delays) < AT_ONCE_MS, delays


def test_what_a_node_accepts_and_does_not_run_another_starts_at_once(
    database: str, make_node: Callable[..., Node]
) -> None:
    """With a handler that the other one has not heard of before."""
    accepts, runs = make_node(database, "accept"), make_node(database, "run")
    with closing(App(database)) as app:
        delays = []
        for number in range(8):
            accepts.put(f"echo{number}", lang="exec", body=ECHO)
            (id_,) = accepts.add(f"echo{number}", [b"line"])
            accepted = time.time() * 1000
            runs.done(id_)
            delays.append(app.delay(id_, accepted))
    assert statistics.median(delays) < AT_ONCE_MS, delays


def test_without_news_jobs_are_found_all_the_same(
    database: str,
    postgres: Server,
    make_node: Callable[..., Node],
    make_pgbouncer: Callable[[Server], PgBouncer],
) -> None:
    """Behind a PgBouncer that pools transactions nobody hears anything."""
    name = database.rpartition("/")[2]
    node = make_node(make_pgbouncer(postgres).url(name))
    node.put("echo", lang="exec", body=ECHO)
    with closing(App(database)) as app:
        for _ in range(2):
            id_, committed = app.add("echo")
            node.done(id_)
            assert app.delay(id_, committed) < SOON_MS


def test_a_node_that_was_cut_off_finds_what_was_added_meanwhile_and_listens_again(
    database: str, postgres: Server, make_node: Callable[..., Node]
) -> None:
    node = make_node(database)
    node.put("echo", lang="exec", body=ECHO)
    name = database.rpartition("/")[2]
    for _ in range(3):
        postgres.execute(CUT, name)
        with closing(App(database)) as app:
            id_, committed = app.add("echo")
            wait_until(lambda id_=id_, app=app: app.is_done(id_), "it is done")
            assert app.delay(id_, committed) < SOON_MS
    listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'"
    wait_until(lambda: postgres.execute(listening, name) == [(1,)], "it listens")
