"""`slimq.add`: an application adds jobs in its own transaction on the store's database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors, sql

from postgres_kit import Server
from slimq.core.jobid import is_id, make_sysid, parse_id
from slimq.core.jobtype import is_name
from slimq.core.limits import DELAY_MAX_MS, JSON_JOBS_MAX, LINE_MAX
from slimq.store.base import Cursor, NewJobs, TypeView
from slimq.store.postgres import PostgresStore
from slimq.system.clock import SystemClock

Connection = psycopg.Connection[tuple[Any, ...]]
LEASE = {"lease_ms": 30_000, "bytes_max": 1 << 30}


@pytest.fixture
def store(database: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(database, clock=SystemClock())) as store:
        store.now()
        yield store


@pytest.fixture
def app(store: PostgresStore, database: str) -> Iterator[Connection]:
    """A connection of an application; nothing is committed by itself."""
    with closing(psycopg.connect(database)) as connection:
        yield connection


def add(app: Connection, type_: str, data: list[Any], rest: str = "") -> list[str]:
    function = "add_bytes" if isinstance(data[0], bytes) else "add"
    client, _, jobtype = type_.partition("/")
    query = sql.SQL("SELECT slimq.{}(%s, %s, %s {})").format(
        sql.Identifier(function),
        sql.SQL(rest),  # type: ignore[arg-type]
    )
    return [id_ for (id_,) in app.execute(query, (client, jobtype, data)).fetchall()]


def counts(store: PostgresStore) -> dict[str, int]:
    types = store.types(client=None, jobtype=None, after="", limit=100)
    return {each.type: each.waiting for each in types}


def ingest(store: PostgresStore, type_: str, id_: str) -> None:
    new = NewJobs(type_, store.now(), [id_], [b"of a node"])
    store.ingest("journal", store.cursor("journal"), Cursor(1, store.now()), [new])


def test_what_is_committed_is_in_the_store_and_due_and_what_is_not_is_nowhere(
    store: PostgresStore, app: Connection
) -> None:
    ids = add(app, "acme/mail", ["one", "two"]) + add(app, "acme/mail", [b"\xff\x00", b""])
    assert counts(store) == {}
    assert store.job(ids[0]) is None
    app.commit()
    assert counts(store) == {"acme/mail": 4}
    (due,) = store.due(store.now(), "", 10)
    assert due.type == "acme/mail"
    assert due.next_at <= store.now()
    jobs = store.claim("acme/mail", "nodeAAAA", 10, **LEASE).jobs
    assert [job.id for job in jobs] == ids
    assert [job.data for job in jobs] == [b"one", b"two", b"\xff\x00", b""]
    assert store.type("acme/mail") == TypeView(
        type="acme/mail", waiting=0, running=4, ok=0, failed=0, error=0, next_at=None
    )


def test_what_is_rolled_back_leaves_nothing_also_behind_a_savepoint(
    store: PostgresStore, app: Connection
) -> None:
    add(app, "acme/mail", ["one"])
    app.rollback()
    assert counts(store) == {}
    kept = add(app, "acme/mail", ["kept"])
    with app.transaction(force_rollback=True):
        add(app, "acme/mail", ["gone"])
        add(app, "acme/other", ["gone"])
    app.commit()
    assert counts(store) == {"acme/mail": 1}
    assert [job.id for job in store.claim("acme/mail", "nodeAAAA", 10, **LEASE).jobs] == kept
    assert app.execute("SELECT count(*) FROM slimq.added").fetchone() == (0,)


def test_jobs_of_several_types_go_in_with_one_commit(store: PostgresStore, app: Connection) -> None:
    ids = [*add(app, "b/x", ["1"]), *add(app, "a/x", ["2", "3"]), *add(app, "b/x", ["4"])]
    app.commit()
    assert counts(store) == {"a/x": 2, "b/x": 2}
    assert ids == sorted(ids)
    assert store.totals().bytes == 4 * (1 + 200)


def test_a_transaction_that_stays_open_stops_no_node(
    store: PostgresStore, app: Connection, database: str
) -> None:
    """Neither at a type that is new to both, nor at counts and hints that both change."""
    impatient = f"{database}?options=-c%20lock_timeout%3D5s"
    with closing(PostgresStore(impatient, clock=SystemClock())) as node:
        ingest(node, "a/old", "Q8De2Db-nodeAAAA-0000")
        add(app, "a/new", ["1"])
        add(app, "a/old", ["1"])
        for number in range(8):  # one shard of the counts after the other
            ingest(node, "a/new", f"Q8De2Db-nodeAAAA-000{number + 1}")
        ids = [job.id for job in node.claim("a/new", "nodeAAAA", 10, **LEASE).jobs]
        assert len(ids) == 8
        app.commit()
        assert counts(node) == {"a/new": 1, "a/old": 2}


def test_jobs_that_are_deferred_are_due_then(store: PostgresStore, app: Connection) -> None:
    before = store.now()
    delayed, at, past = (
        add(app, "a/x", ["x"], rest)[0]
        for rest in (
            ", delay => '90 minutes'",
            ", due_at => '2027-01-02 03:04:05.678Z'",
            ", due_at => '1999-01-01'",
        )
    )
    app.commit()
    views = {id_: store.job(id_) for id_ in (delayed, at, past)}
    dt = {id_: view.dt if view else 0 for id_, view in views.items()}
    assert before + 5_400_000 <= dt[delayed] <= store.now() + 5_400_000
    assert dt[at] == 1_798_859_045_678
    assert before <= dt[past] <= store.now()  # not in front of older ones
    assert counts(store) == {"a/x": 3}


def test_what_waited_for_a_long_transaction_is_due_since_its_commit(
    store: PostgresStore, app: Connection
) -> None:
    """Claims look from a floor on: what comes in below it would be found late."""
    (id_,) = add(app, "a/x", ["x"], ", delay => '1 ms'")
    app.execute("SELECT pg_sleep(0.05)")
    before = store.now()
    app.commit()
    view = store.job(id_)
    assert view is not None
    assert view.dt >= before - 5  # of two clocks that are read one after the other


def test_the_bounds_and_names_are_those_of_post_add(store: PostgresStore, app: Connection) -> None:
    long_name = "n" * 128
    for rule, statement in {
        "client is missing or malformed": "'', 'mail', ARRAY['x']",
        "client is missing": "NULL, 'mail', ARRAY['x']",
        "jobtype is missing or malformed": "'main', '.mail', ARRAY['x']",
        "at most 128 characters": f"'main', '{long_name}n', ARRAY['x']",
        "delay and due_at exclude each other": "'a', 'b', ARRAY['x'], '1s', now()",
        "at most 366 days ahead": f"'a', 'b', ARRAY['x'], '{DELAY_MAX_MS // 1000 + 1}s'",
        "from now": "'a', 'b', ARRAY['x'], '-1s'",
        "366 days": "'a', 'b', ARRAY['x'], NULL, 'infinity'",
        "is not NULL": "'a', 'b', NULL",
        "not NULL": "'a', 'b', ARRAY['x', NULL]",
        "without a newline": r"'a', 'b', ARRAY[E'x\n']",
        f"{LINE_MAX} bytes": f"'a', 'b', ARRAY[repeat('x', {LINE_MAX + 1})]",
        f"{JSON_JOBS_MAX} elements": f"'a', 'b', array_fill(''::text, ARRAY[{JSON_JOBS_MAX + 1}])",
    }.items():
        with pytest.raises(errors.InvalidParameterValue, match=r"slimq\.add: ") as refusal:
            app.execute(f"SELECT slimq.add({statement})".encode())
        assert rule in str(refusal.value)
        app.rollback()
    assert counts(store) == {}
    for fine in (
        f"'{long_name}', '0', ARRAY['x']",
        f"'a', 'b', ARRAY[repeat('x', {LINE_MAX})], '{DELAY_MAX_MS // 1000}s'",
        f"'a', 'b', array_fill(''::text, ARRAY[{JSON_JOBS_MAX}])",
        "'a', 'b', '{}'",
    ):
        app.execute(f"SELECT slimq.add({fine})".encode())
    app.commit()
    assert counts(store) == {f"{long_name}/0": 1, "a/b": JSON_JOBS_MAX + 1}


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4))
def test_a_name_is_a_name_in_sql_when_it_is_one_over_http(
    store: PostgresStore, app: Connection, name: str
) -> None:
    query = "SELECT slimq.add('main', %s, '{x}', '1 day')"
    if is_name(name):
        app.execute(query, (name,))
    else:
        with pytest.raises(errors.InvalidParameterValue):
            app.execute(query, (name,))
    app.rollback()


def test_no_two_of_100_000_ids_of_callers_at_a_time_are_the_same_and_all_are_ids(
    store: PostgresStore, app: Connection, database: str
) -> None:
    def call(number: int) -> list[str]:
        with closing(psycopg.connect(database)) as own:
            ids: list[str] = []
            for _ in range(10):
                ids += add(own, f"app/t{number % 2}", ["x"] * 2500)
                own.commit()
            return ids

    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(call, range(4)))
    ids = [id_ for own in found for id_ in own]
    assert len(set(ids)) == 100_000
    assert all(map(is_id, ids))
    assert all(own == sorted(own) for own in found)
    assert counts(store) == {"app/t0": 50_000, "app/t1": 50_000}
    time_ms, sysid, _ = parse_id(ids[-1])
    assert abs(store.now() - time_ms) < 60_000
    assert sysid > make_sysid(b"\xff" * 6), "no node can have it"


def test_ids_differ_also_when_the_clock_stands_still_and_numbers_pass_24_bits(
    store: PostgresStore, app: Connection
) -> None:
    app.execute(
        "CREATE OR REPLACE FUNCTION slimq.now_ms() RETURNS bigint LANGUAGE sql STABLE "
        "AS 'SELECT 1795000000000::bigint'"
    )
    app.execute("SELECT setval('slimq.added_number', %s)", ((1 << 24) - 3,))
    ids = add(app, "a/x", ["x"] * 4) + add(app, "a/x", ["x"] * 2)
    assert ids == sorted(set(ids))
    sysids = [parse_id(id_).sysid for id_ in ids]
    assert len(set(sysids)) == 2
    assert [parse_id(id_).sequence for id_ in ids] == [0xFFFFFE, 0xFFFFFF, 0, 1, 2, 3]
    assert {parse_id(id_).time_ms for id_ in ids} == {1_795_000_000_000}


def test_transactions_that_add_to_the_same_types_in_any_order_do_not_meet(
    store: PostgresStore, database: str
) -> None:
    """What is shared is locked in one order, at the commit."""

    def call(number: int) -> None:
        names = ["a/x", "b/x", "c/x"]
        with closing(psycopg.connect(database)) as own:
            for turn in range(20):
                for name in names if (number + turn) % 2 else reversed(names):
                    add(own, name, ["x"])
                own.commit()

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(call, range(4)))
    assert counts(store) == {"a/x": 80, "b/x": 80, "c/x": 80}


def test_a_role_that_may_execute_it_and_nothing_else_can_add(
    store: PostgresStore, app: Connection, postgres: Server, database: str
) -> None:
    name = f"app_{database.rpartition('/')[2]}"
    postgres.create_user(name)
    role = sql.Identifier(name)
    app.execute(sql.SQL("GRANT USAGE ON SCHEMA slimq TO {}").format(role))
    app.commit()
    app.execute(sql.SQL("SET ROLE {}").format(role))
    with pytest.raises(errors.InsufficientPrivilege):
        add(app, "a/x", ["x"])
    app.rollback()
    app.execute(sql.SQL("GRANT EXECUTE ON FUNCTION slimq.add, slimq.add_bytes TO {}").format(role))
    app.execute(sql.SQL("SET ROLE {}").format(role))
    app.execute("CREATE TEMPORARY TABLE job (id text)")  # cannot stand in for a table of slimq
    add(app, "a/x", ["x"])
    add(app, "a/x", [b"x"])
    app.commit()
    for table in ("job", "type", "added", "meta"):
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute(sql.SQL("SELECT FROM slimq.{}").format(sql.Identifier(table)))
        app.rollback()
    app.execute("RESET ROLE")
    assert counts(store) == {"a/x": 2}
    app.execute(sql.SQL("DROP OWNED BY {}").format(role))
    app.execute(sql.SQL("DROP ROLE {}").format(role))
    app.commit()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_another_isolation_level_is_refused_by_name(
    store: PostgresStore, app: Connection, level: str
) -> None:
    """A commit there would fail whenever a node counted meanwhile."""
    app.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
    with pytest.raises(errors.FeatureNotSupported, match=f"READ COMMITTED.* {level}"):
        add(app, "a/x", ["x"])


def test_who_listens_is_told_at_the_commit_and_not_before(
    store: PostgresStore, app: Connection, postgres: Server, database: str
) -> None:
    with closing(psycopg.connect(database, autocommit=True)) as listening:
        listening.execute("LISTEN slimq")
        add(app, "a/x", ["x"])
        add(app, "a/y", ["x"])
        assert list(listening.notifies(timeout=0)) == []
        app.commit()
        (told,) = listening.notifies(timeout=10, stop_after=1)
        assert (told.channel, told.payload) == ("slimq", "jobs")
        add(app, "a/x", ["x"], ", delay => '1 hour'")
        app.commit()
        listening.execute("SELECT 1")
        assert list(listening.notifies(timeout=0)) == []
