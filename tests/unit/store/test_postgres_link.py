"""The connection of a PostgreSQL store: what is wrong is said in one line, nothing waits for
ever, and what is well again is used again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from clock_kit import FakeClock
from postgres_kit import PgBouncer, Server, either, wait_until
from slimq.core.jobid import Minter
from slimq.core.lifecycle import Lease
from slimq.errors import ConfigError, StoreRefused, StoreTooNew, StoreUnavailable
from slimq.store.base import Cursor, NewJobs, Policy, TooSlow
from slimq.store.migrate import POSTGRES, known
from slimq.store.opening import open_store
from slimq.store.postgres import PostgresStore
from slimq.store.postgres_facts import warnings
from slimq.store.postgres_link import REST_MS, PostgresLink
from slimq.store.postgres_trouble import may_heal, said
from slimq.system.clock import SystemClock

MakeServer = Callable[..., Server]
MakePgBouncer = Callable[..., PgBouncer]
PASSWORD = "s3cret-canary"
NOBODY_LISTENS = "postgresql://me:s3cret-canary@127.0.0.1:1/jobs"


@contextmanager
def store_at(url: str, answer_s: float = 10) -> Iterator[PostgresStore]:
    with closing(PostgresStore(url, clock=SystemClock(), answer_s=answer_s)) as store:
        yield store


def refusal_of(url: str) -> str:
    """Return why a node does not start with this store; assert that it is one line."""
    with store_at(url) as store, pytest.raises(StoreRefused) as refusal:
        store.check()
    assert refusal.value.detail.isprintable()
    assert PASSWORD not in refusal.value.detail
    return refusal.value.detail


def trouble_of(url: str) -> str:
    """Return why the store cannot be used now, where that does not hold up a start."""
    with store_at(url) as store:
        store.check()
        with pytest.raises(StoreUnavailable) as trouble:
            store.now()
    assert trouble.value.detail.isprintable()
    assert PASSWORD not in trouble.value.detail
    return trouble.value.detail


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server that asks for passwords."""
    with Server(auth="scram-sha-256", settings={"max_connections": "4"}) as server:
        yield server


# What waiting would not heal.


def test_a_wrong_password_is_named(guarded: Server) -> None:
    guarded.create_user("worker", "right")
    url = guarded.url("postgres", "worker", PASSWORD)
    assert 'password authentication failed for user "worker"' in refusal_of(url)
    unknown = guarded.url("postgres", "stranger", PASSWORD)
    assert 'authentication failed for user "stranger"' in refusal_of(unknown)


def test_a_missing_password_is_named(guarded: Server) -> None:
    assert "no password supplied" in refusal_of(guarded.url().replace(guarded.password, ""))


def test_a_missing_database_is_named(postgres: Server) -> None:
    assert 'database "nowhere" does not exist' in refusal_of(postgres.url("nowhere"))


def test_an_encoding_that_is_not_utf8_is_named(postgres: Server) -> None:
    assert "must be UTF8" in refusal_of(postgres.create_encoded("old_bytes", "SQL_ASCII"))


def test_a_user_who_may_not_make_the_schema_is_named(postgres: Server, database: str) -> None:
    postgres.create_user("guest")
    url = database.replace("//postgres@", "//guest@")
    assert "permission denied for database" in refusal_of(url)


def test_a_user_who_may_not_use_the_schema_of_another_is_named(
    postgres: Server, database: str
) -> None:
    with store_at(database) as store:
        store.now()
    postgres.create_user("reader")
    url = database.replace("//postgres@", "//reader@")
    assert "permission denied for schema slimq" in refusal_of(url)
    name = name_of(database)
    postgres.execute("GRANT USAGE ON SCHEMA slimq TO reader", database=name)
    postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA slimq TO reader", database=name)
    assert "reader lacks privileges on slimq." in refusal_of(url)
    postgres.execute(
        "GRANT ALL ON SCHEMA slimq TO reader; GRANT ALL ON ALL TABLES IN SCHEMA slimq TO reader",
        database=name,
    )
    assert "reader lacks privileges on slimq.done: it should be the owner" in refusal_of(url)
    postgres.execute("DROP OWNED BY reader", database=name)


def test_a_schema_of_another_program_is_left_alone(postgres: Server, database: str) -> None:
    name = name_of(database)
    postgres.execute("CREATE SCHEMA slimq; CREATE TABLE slimq.theirs ()", database=name)
    assert "belongs to another program" in refusal_of(database)


def test_a_schema_of_a_newer_slimq_is_left_alone_and_used_when_it_fits(
    postgres: Server, database: str
) -> None:
    name = name_of(database)
    with store_at(database) as store:
        store.now()
    raised = "UPDATE slimq.meta SET value = value + %s WHERE name IN ('schema', 'schema_least')"
    postgres.execute(raised, 98, database=name)
    assert f"has schema {known(POSTGRES).latest + 98}" in refusal_of(database)
    with closing(PostgresStore(database, clock=(clock := FakeClock()))) as store:
        with pytest.raises(StoreTooNew):
            store.totals()
        postgres.execute(raised, -98, database=name)
        clock.advance(REST_MS)
        assert store.totals().waiting == 0


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret-canary%zz@db/jobs",
        "postgresql://me:s3cret-canary@db:99999/jobs",
        "postgresql://me:s3cret-canary@db:port/jobs",
        "postgresql://me:s3cret-canary@db/jobs?sslmood=require",
    ],
)
def test_a_malformed_url_is_a_wrong_setting_and_is_not_quoted(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store\.url is malformed") as refusal:
        open_store(url, tmp_path, clock=FakeClock(), durable=True)
    assert "canary" not in refusal.value.detail


# What waiting may heal.


def test_a_server_that_refuses_may_come(tmp_path: Path) -> None:
    expected = "failed: Connection refused"
    assert trouble_of(NOBODY_LISTENS).endswith(expected)
    two = NOBODY_LISTENS.replace(":1/", ":1,127.0.0.1:2/")
    assert trouble_of(two).count(expected) == 2


def test_a_name_that_is_not_known_may_become_known() -> None:
    assert "nowhere.invalid" in trouble_of("postgresql://me:s3cret-canary@nowhere.invalid/jobs")


def test_a_server_whose_connections_are_used_up_may_have_some_again(guarded: Server) -> None:
    guarded.create_user("many", PASSWORD)
    guarded.execute("CREATE DATABASE many OWNER many")
    url = guarded.url("many", "many", PASSWORD)
    held: list[psycopg.Connection] = []
    try:
        _use_up(url, held)
        assert re.search("too many clients|connection slots", trouble_of(url))
        held.pop().close()
        with store_at(url) as store:
            wait_until(lambda: _works(store), "there is a connection")
    finally:
        for connection in held:
            connection.close()


def test_a_replica_that_cannot_be_written_may_become_the_primary(
    make_postgres: MakeServer,
) -> None:
    primary = make_postgres()
    with primary.replica() as replica:
        assert "read-only" in trouble_of(replica.url())
        with store_at(either(primary, replica)) as store:
            before = store.now()
            replica.catch_up()
            primary.kill()
            assert not _works(store)
            replica.promote()
            wait_until(lambda: _works(store), "the promoted replica is used")
            assert store.now() >= before


def test_of_several_hosts_one_that_may_heal_is_enough() -> None:
    lasting = "- host: 'a', port: '1', hostaddr: None: connection failed: FATAL:  no such user: u"
    healing = "- host: 'b', port: '2', hostaddr: None: connection timeout expired"
    head = "connection timeout expired\nMultiple connection attempts failed. All failures were:"
    both = psycopg.OperationalError("\n".join((head, lasting, healing)))
    assert may_heal(both)
    assert said(both) == "a:1: FATAL: no such user: u; b:2: connection timeout expired"
    assert not may_heal(psycopg.OperationalError("\n".join((head, lasting))))


def test_a_password_in_what_the_server_says_is_not_repeated() -> None:
    error = psycopg.OperationalError(f"connection failed: your {PASSWORD} is wrong")
    assert said(error, NOBODY_LISTENS) == "your *** is wrong"


# Bounds.


def test_a_frozen_server_is_not_waited_for_and_used_when_it_goes_on(
    make_postgres: MakeServer,
) -> None:
    server = make_postgres()
    with store_at(server.url() + "?connect_timeout=2", answer_s=0.3) as store:
        store.totals()
        server.pause()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0\.3 s"):
                store.totals()
            with pytest.raises(StoreUnavailable, match="timeout"):  # it takes no connection
                store.totals()
            assert time.monotonic() - began < 6
        finally:
            server.resume()
        wait_until(lambda: _works(store), "the server is used again")


def test_where_no_connection_could_be_made_the_next_call_does_not_try_at_once() -> None:
    clock = FakeClock()
    link = PostgresLink(NOBODY_LISTENS, clock)
    reasons = []
    for pause in (0, REST_MS - 1, 1):
        clock.advance(pause)
        with pytest.raises(StoreUnavailable) as refusal:
            link.now()
        reasons.append(refusal.value)
    assert len({id(reason) for reason in reasons}) == 3
    assert [reason.__cause__ is None for reason in reasons] == [False, True, False]


def test_a_question_that_takes_too_long_is_told_from_a_store_that_is_down(database: str) -> None:
    with closing(PostgresLink(database, SystemClock(), query_ms=50)) as link:
        with pytest.raises(TooSlow, match="narrow it"):
            link.read(lambda tx: tx.one("SELECT pg_sleep(5)"))
        assert link.read(lambda tx: tx.one("SELECT 1")) == (1,)


@pytest.mark.parametrize("end", ["terminate", "restart", "crash"])
def test_a_connection_that_was_cut_costs_one_call(make_postgres: MakeServer, end: str) -> None:
    server = make_postgres()
    with store_at(server.url()) as store:
        before = store.now()
        if end == "terminate":
            server.terminate_backends()
        else:
            server.restart("fast" if end == "restart" else "immediate")
        with pytest.raises(StoreUnavailable):
            store.totals()
        assert store.totals().waiting == 0
        assert store.now() >= before


def test_a_schema_that_is_dropped_under_way_is_trouble_and_no_bug(
    postgres: Server, database: str
) -> None:
    with closing(PostgresStore(database, clock=(clock := FakeClock()))) as store:
        store.totals()
        postgres.execute("DROP SCHEMA slimq CASCADE", database=name_of(database))
        with pytest.raises(StoreUnavailable, match=r"slimq\.\w+"):
            store.totals()
        clock.advance(REST_MS)
        assert store.totals().waiting == 0  # an empty one was made


def test_an_old_pgbouncer_that_gives_each_transaction_another_session_is_served(
    make_pgbouncer: MakePgBouncer, postgres: Server, database: str
) -> None:
    pooler = make_pgbouncer(postgres, size=3)
    url = database.replace(f":{postgres.port}/", f":{pooler.port}/")
    with store_at(url) as one, store_at(url) as other, store_at(url) as third:
        for _ in range(30):
            for store in (one, other, third):
                assert store.totals().waiting == 0
                assert store.job("0Q7K2aB-n0dEsYs1-0000") is None
                store.put_policy(Policy(client="main", jobtype="x", weight=2))
    pooler.stop()
    with store_at(url) as store, pytest.raises(StoreUnavailable):
        store.totals()


def test_behind_a_pooler_nobody_runs_the_prepared_statement_of_another(
    make_pgbouncer: MakePgBouncer, postgres: Server, database: str
) -> None:
    """Each connection numbers its statements by itself. Of two sessions, a holder takes the
    one or the other, so that two stores prepare theirs in different ones, and then meet."""
    pooler = make_pgbouncer(postgres, size=2)
    url = database.replace(f":{postgres.port}/", f":{pooler.port}/")
    with store_at(url) as one, store_at(url) as other, psycopg.connect(url) as first:
        one.now()
        other.now()
        first.execute("SELECT 1")
        for _ in range(5):
            assert one.cursor("a journal") == (0, 0, 0, 0)
        with psycopg.connect(url) as second:
            second.execute("SELECT 1")
            first.rollback()
            for _ in range(5):
                assert other.key_use("main/x", "a key") is None
            for _ in range(5):
                assert one.cursor("a journal") == (0, 0, 0, 0)


# What it says of itself.


def test_what_may_lose_commits_is_noticed(make_postgres: MakeServer) -> None:
    server = make_postgres(settings={"synchronous_commit": "off"})
    with store_at(server.url()) as store:
        facts = store.facts()
        assert facts.kind == "postgresql"
        assert re.fullmatch(r"\d\d[.\w]+", facts.version)
        assert facts.synchronous_commit == "off"
        assert [warning.split()[0] for warning in facts.warnings] == ["fsync", "synchronous_commit"]


def test_only_the_commit_of_a_lease_does_not_wait_for_the_disk(database: str) -> None:
    with store_at(database) as store:
        store.check()
        (id_,) = Minter("nodeAAAA").block(1, store.now()).ids()
        jobs = NewJobs(type="acme/mail", dt=store.now(), ids=[id_], data=[b"x"])
        store.ingest("a journal", Cursor(), Cursor(1), [jobs])
        (job,) = store.claim("acme/mail", "nodeAAAA", 1, lease_ms=60_000, bytes_max=1 << 20).jobs
        store.renew("nodeAAAA", [Lease(job.id, job.attempt)], lease_ms=60_000)
        assert store.facts().synchronous_commit == "on"


def test_the_oldest_snapshot_is_that_of_the_database(postgres: Server, database: str) -> None:
    with store_at(database) as store:
        assert store.facts().oldest_snapshot_ms == 0
        with postgres.connect(name_of(database)) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1")
            wait_until(lambda: (store.facts().oldest_snapshot_ms or 0) >= 100, "it gets older")
            other.execute("COMMIT")
        assert store.facts().oldest_snapshot_ms == 0


def test_an_old_snapshot_and_many_dead_rows_are_warned_of() -> None:
    assert warnings("on", "remote_apply", 999_999, 299_999) == []
    assert warnings("on", "on", 0, 301_000) == [
        "a transaction has been open for 5m: dead rows cannot be removed"
    ]
    assert warnings("on", "on", 1_000_000, 0) == [
        "1,000,000 dead rows in slimq.job: let autovacuum run more often"
    ]


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def _use_up(url: str, held: list[psycopg.Connection]) -> None:
    """Take all connections, also those of others that are about to go."""
    refused = 0
    while refused < 20:
        refused = 0 if _connects(url, held) else refused + 1


def _connects(url: str, held: list[psycopg.Connection]) -> bool:
    try:
        held.append(psycopg.connect(url))
    except psycopg.OperationalError:
        return False
    return True


def _works(store: PostgresStore) -> bool:
    try:
        store.totals()
    except StoreUnavailable:
        return False
    return True
