"""What nodes on one PostgreSQL tell each other: heard at once, and needed by nobody."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest

from postgres_kit import PgBouncer, Server
from slimq.store.postgres import PostgresStore
from slimq.store.postgres_news import AGAIN_MS, News, PostgresNews
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock

WAIT_S = 20
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


class Ear:
    """One node's news, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self._heard: queue.Queue[News] = queue.Queue()
        self.news = PostgresNews(url, SystemClock(), SystemChance(), self._heard.put)
        self._thread = threading.Thread(target=self.news.run)
        self._thread.start()

    def next(self) -> News:
        return self._heard.get(timeout=WAIT_S)

    def all(self) -> list[News]:
        """Return what was heard and not asked for."""
        return [self._heard.get() for _ in range(self._heard.qsize())]

    def close(self) -> None:
        self.news.end()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def url(database: str) -> str:
    with closing(PostgresStore(database, clock=SystemClock())) as store:
        store.now()
    return database


@pytest.fixture
def listen() -> Iterator[Callable[[str], Ear]]:
    with ExitStack() as open_:
        yield lambda url: open_.enter_context(closing(Ear(url)))


@contextmanager
def application(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def test_what_one_node_tells_the_others_hear_and_it_does_not(
    url: str, listen: Callable[[str], Ear]
) -> None:
    one, other = listen(url), listen(url)
    assert one.next() == other.next() == "control", "nobody heard what was said before"
    one.news.tell("control")
    assert other.next() == "control"
    one.news.tell("jobs")
    assert other.next() == "jobs"
    other.news.tell("control")
    assert one.next() == "control"
    assert one.all() in ([], ["jobs"]), "the second look at most"


def test_a_listener_looks_again_when_that_is_over_in_which_nobody_tells(
    url: str, listen: Callable[[str], Ear]
) -> None:
    """Of two commits within 20 ms, one tells; the other may be visible later."""
    ear = listen(url)
    assert ear.next() == "control"
    with application(url) as app:
        app.execute("SELECT slimq.tell('jobs')")
        told = time.monotonic()
        assert ear.next() == "jobs"
        assert ear.next() == "jobs"
        assert time.monotonic() - told > AGAIN_MS / 1000 * 0.5
        assert ear.all() == []


def test_a_storm_is_told_every_20_ms_at_most(url: str, listen: Callable[[str], Ear]) -> None:
    ear = listen(url)
    assert ear.next() == "control"
    begun = time.monotonic()
    with application(url) as app:
        for _ in range(500):
            app.execute("SELECT slimq.add('main', 'mail', '{x}')")
    took = time.monotonic() - begun
    assert ear.next() == "jobs"
    assert 1 + len(ear.all()) <= took / 0.02 + 2


def test_a_listener_whose_connection_is_cut_listens_again(
    url: str, listen: Callable[[str], Ear], postgres: Server
) -> None:
    ear = listen(url)
    assert ear.next() == "control"
    for _ in range(2):
        postgres.execute(CUT, url.rpartition("/")[2])
        assert ear.next() == "control", "it may have missed something"
    with application(url) as app:
        app.execute("SELECT slimq.add('main', 'mail', '{x}')")
    assert ear.next() == "jobs"


def test_news_end_at_once_also_while_there_is_no_server(listen: Callable[[str], Ear]) -> None:
    ear = listen("postgresql://127.0.0.1:1/nobody")
    ear.news.tell("jobs")
    begun = time.monotonic()
    ear.close()
    assert time.monotonic() - begun < 5
    assert ear.all() == []


def test_behind_a_pooler_that_swallows_news_nothing_breaks(
    url: str,
    listen: Callable[[str], Ear],
    postgres: Server,
    make_pgbouncer: Callable[[Server], PgBouncer],
) -> None:
    pooler = make_pgbouncer(postgres)
    pooled, direct = listen(pooler.url(url.rpartition("/")[2])), listen(url)
    assert pooled.next() == direct.next() == "control"
    pooled.news.tell("jobs")
    assert direct.next() == "jobs"
