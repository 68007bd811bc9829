"""A store that was moved to another database is the store that it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from postgres_rig import PostgresRig
from store_kit import JOURNAL, NODE, OPTIONS, OTHER, Store, Yard, handler, node
from test_store_machine import LOCKS, Stores

from clock_kit import FakeClock
from postgres_kit import Server
from slimq.core.handler import Options
from slimq.core.limits import LEASE_MS
from slimq.errors import StoreUnavailable
from slimq.store.base import Cursor, DueType, JobFilter, Policy
from slimq.store.moving import TABLES, Content, Row, move
from slimq.store.moving_postgres import PostgresEnd
from slimq.store.moving_sqlite import SqliteEnd
from slimq.store.postgres_floor import Floors
from slimq.store.sqlite import SqliteStore


class File:
    """A SQLite store of a test."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.path = folder / "store.db"
        self.clock = clock

    def store(self) -> SqliteStore:
        return SqliteStore(self.path, clock=self.clock, durable=True, boot="boot1")

    def end(self) -> SqliteEnd:
        return SqliteEnd(self.path, self.clock, boot="boot1")


class Database(PostgresRig):
    """A PostgreSQL store of a test."""

    def end(self) -> PostgresEnd:
        return PostgresEnd(self.url)


Home = File | Database


def go(
    source: Home,
    target: Home,
    *,
    patience: Callable[[int], bool] = lambda held: False,
    tell: Callable[[int], None] = lambda rows: None,
) -> Content:
    """Move all from one store to another."""
    with closing(target.store()) as store:
        store.now()  # makes it
    with closing(source.end()) as there, closing(target.end()) as here:
        return move(there, here, patience=patience, tell=tell)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def file(tmp_path: Path, clock: FakeClock) -> File:
    return File(tmp_path, clock)


@pytest.fixture
def database(postgres: Server, clock: FakeClock) -> Iterator[Database]:
    database = Database(postgres, clock)
    with closing(database):
        yield database


@pytest.fixture(params=["to postgres", "to a file", "between databases"])
def homes(
    request: pytest.FixtureRequest, file: File, database: Database, postgres: Server
) -> Iterator[tuple[Home, Home]]:
    if request.param == "to postgres":
        yield file, database
    elif request.param == "to a file":
        yield database, file
    else:
        with closing(Database(postgres, file.clock)) as other:
            yield database, other


def fill(yard: Yard) -> None:
    """Put something of everything into a store."""
    store, clock = yard.store, yard.clock
    for lock in (NODE, OTHER):
        store.register(node(lock, version="1"))
    yard.add(count=3, dt=yard.now + 50_000)  # deferred
    yard.add("a/ready", count=4, data=[b"", b"\0\xff", b"x" * 2048, b"x" * 100_000])
    parents = yard.add("a/parents", count=2)
    yard.add("a/children", count=2, parent=parents[0], trace="00-trace")
    yard.add("a/ok", count=5, key="k1", digest="d1")
    yard.add("a/ok", count=5, key="k1", digest="d1")  # aliases
    yard.add("a/failed", count=2)
    yard.add("a/error", count=2)
    yard.add("a/cancelled", count=2)
    yard.add("a/again", count=3)
    yard.add("a/held", count=2)
    yard.add("a/abandoned", count=2)
    yard.run(200, "a/ok", output=b"tail", text=b"said")
    yard.run(400, "a/failed", error="why", text=b"\0")
    yard.run(500, "a/again", output=b"first")
    clock.advance(60_000)
    yard.run(200, "a/again", 1, output=b"second")
    yard.run(500, "a/again", 1, output=b"third")
    for _ in range(OPTIONS.max_failures):
        yard.run(500, "a/error", error="broken", crashed=True)
        clock.advance(600_000)
    store.cancel(yard.all_ids(jobtype="cancelled"))
    store.retry(yard.all_ids(jobtype="failed")[:1])
    held = yard.claim("a/held", ordered=True)
    yard.finish(held, 102, type_="a/held", options=Options(ordered=True))
    yard.claim("a/abandoned", 1)
    for version in ("one", "two"):
        store.put_handler(handler(version))
        store.put_handler(handler(version, max_failures=2))
    store.rollback_handler("acme", "one", 1)
    store.delete_handler("acme", "two")
    store.put_policy(Policy(client="acme", jobtype="mail", paused=True, weight=3))
    store.put_policy(Policy(client="*", jobtype="mail", concurrency=2))
    store.ingest("journal2", Cursor(), Cursor(3, 4, 5, 6), [])
    yard.purge(ok_before=yard.now - 700_000)
    clock.advance(LEASE_MS)


def seen(store: Store) -> dict[str, Any]:
    """Return all that a store shows of itself."""
    views = store.jobs(JobFilter(), before="", limit=1000)
    totals = store.totals()
    totals.bytes = 0
    return {
        "jobs": [store.job(view.id) for view in views],
        "types": store.types(client=None, jobtype=None, after="", limit=1000),
        "totals": totals,
        "nodes": store.nodes(),
        "control": store.control(),
        "versions": [store.versions("acme", jobtype) for jobtype in ("one", "two")],
        "cursors": [store.cursor(name) for name in (JOURNAL, "journal2", "journal3")],
        "key": store.key_use("a/ok", "k1"),
    }


def due(store: Store) -> list[DueType]:
    return store.due(store.now() + 1_000_000, "", 1000)


def test_every_job_and_all_that_belongs_to_it_is_there_after_a_move(
    homes: tuple[Home, Home], clock: FakeClock
):
    source, target = homes
    told: list[int] = []
    with closing(source.store()) as store, closing(source.store()) as other:
        fill(Yard(store, other, clock))
        before, due_before = seen(store), due(store)
        content = go(source, target, tell=told.append)
        with closing(target.store()) as moved:
            assert seen(moved) == before
            assert due(moved) == due_before
        assert seen(store) == before, "the source can be read still"
    assert all(content.tables[table][0] for table in TABLES), "the test has something of all"
    assert sum(content.kinds.values()) == len(before["jobs"])
    assert sum(told) == 2 * sum(count for count, _ in content.tables.values())


def test_a_moved_store_goes_on_where_it_was_and_the_old_one_refuses_every_change(
    homes: tuple[Home, Home], clock: FakeClock
):
    source, target = homes
    with closing(source.store()) as store, closing(source.store()) as other:
        yard = Yard(store, other, clock)
        yard.add("a/done")
        yard.run(200, "a/done")
        first, second = yard.add(count=2), yard.add(count=2)
        cursor = store.cursor(JOURNAL)
        go(source, target)
        for change in (
            lambda: yard.add(),
            lambda: yard.claim(),
            lambda: store.register(node()),
            lambda: store.beat(node()),
            lambda: store.cancel(first),
            lambda: store.put_handler(handler()),
            lambda: store.put_policy(Policy(client="*", jobtype="mail", weight=2)),
            lambda: yard.purge(ok_before=1 << 50),
        ):
            with pytest.raises(StoreUnavailable, match=rf"be moved to \S*{target_name(target)}"):
                change()
    with closing(target.store()) as store, closing(target.store()) as other:
        moved = Yard(store, other, clock)
        moved.minter = yard.minter
        assert store.cursor(JOURNAL) == cursor
        third = moved.add(count=2)
        assert [job.id for job in moved.claim()] == first + second + third


def target_name(home: Home) -> str:
    return home.path.name if isinstance(home, File) else home.url.rpartition("/")[2]


def test_a_store_whose_jobs_run_is_not_moved_before_they_end_or_their_leases(
    homes: tuple[Home, Home], clock: FakeClock
):
    source, target = homes
    with closing(source.store()) as store, closing(source.store()) as other:
        yard = Yard(store, other, clock)
        yard.add(count=3)
        jobs = yard.claim(limit=2)
        with pytest.raises(StoreUnavailable, match=r"2 jobs run in .*slimq stop"):
            go(source, target)
        yard.finish(jobs[:1])  # it is open still
        asked: list[int] = []

        def wait(held: int) -> bool:
            asked.append(held)
            clock.advance(LEASE_MS)
            return True

        go(source, target, patience=wait)
        assert asked == [1]
    with closing(target.store()) as store:
        assert store.free(9).again == 1


def test_a_target_that_is_not_empty_is_refused_and_the_source_goes_on(
    homes: tuple[Home, Home], clock: FakeClock
):
    source, target = homes
    for home in homes:
        with closing(home.store()) as store:
            Yard(store, store, clock).add()
    with pytest.raises(StoreUnavailable, match="is not empty: its table"):
        go(source, target)
    with closing(source.store()) as store:
        Yard(store, store, clock).add()


class _Interrupted(Exception):
    pass


def test_a_move_that_is_broken_off_leaves_nothing_behind_and_the_source_open(
    homes: tuple[Home, Home], clock: FakeClock
):
    source, target = homes

    def break_off(rows: int) -> None:
        if rows:
            raise _Interrupted

    with closing(source.store()) as store, closing(source.store()) as other:
        yard = Yard(store, other, clock)
        fill(yard)
        for _ in range(2):
            with pytest.raises(_Interrupted):
                go(source, target, tell=break_off)
            yard.add()
        with closing(target.store()) as moved:
            assert moved.totals().types == 0
        before = seen(store)
        go(source, target)
        with closing(target.store()) as moved:
            assert seen(moved) == before


def test_a_store_that_was_left_closed_by_a_killed_move_can_be_moved_on_or_opened_again(
    homes: tuple[Home, Home], clock: FakeClock, tmp_path: Path
):
    source, target = homes
    with closing(source.store()) as store, closing(source.store()) as other:
        yard = Yard(store, other, clock)
        yard.add()
        with closing(source.end()) as end:
            assert end.close_for("elsewhere") == 0
            assert end.closed_for() == "elsewhere"
        with pytest.raises(StoreUnavailable, match=r"was moved to elsewhere; .*slimq db reopen"):
            go(source, target)
        with closing(source.end()) as end:
            end.reopen()
            assert end.closed_for() == ""
        yard.add()
        with closing(source.end()) as end, closing(target.end()) as there:
            assert end.close_for(there.shown) == 0
        go(source, target)
    with closing(target.store()) as store:
        assert store.totals().waiting == 2


_KILLED = """
import os, signal, sys
from slimq.store.moving import move
from slimq.store.place import open_end, place_of
source, target = (open_end(place_of(text)) for text in sys.argv[1:])
die = lambda rows: os.kill(os.getpid(), signal.SIGKILL)
move(source, target, patience=lambda held: False, tell=die)
"""


def test_a_move_that_was_killed_can_be_run_again(homes: tuple[Home, Home], clock: FakeClock):
    source, target = homes
    with closing(source.store()) as store, closing(source.store()) as other:
        fill(Yard(store, other, clock))
        before = seen(store)
        with closing(target.store()) as moved:
            moved.now()  # makes it
        words = [sys.executable, "-c", _KILLED, address(source), address(target)]
        assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
        with pytest.raises(StoreUnavailable, match="it was closed, to be moved to"):
            store.beat(node())
        with closing(target.store()) as moved:
            assert moved.totals().types == 0
        go(source, target)
    with closing(target.store()) as moved:
        assert seen(moved) == before


def address(home: Home) -> str:
    return str(home.path) if isinstance(home, File) else home.url


class _Losing(SqliteEnd):
    """A disk that keeps one byte of a job wrongly."""

    def write(self, table: str, rows: Iterable[Row]) -> None:
        changed = ((*row[:-1], row[-1] + b"!") for row in rows) if table == "job" else rows
        super().write(table, changed)


def test_a_copy_that_differs_in_one_byte_is_not_kept(file: File, tmp_path: Path, clock: FakeClock):
    (tmp_path / "other").mkdir()
    target = File(tmp_path / "other", clock)
    with closing(file.store()) as store, closing(target.store()) as moved:
        yard = Yard(store, store, clock)
        yard.add()
        assert moved.totals().waiting == 0
        with (
            closing(file.end()) as there,
            closing(_Losing(target.path, clock)) as here,
            pytest.raises(StoreUnavailable, match=r"is not like .*: table job"),
        ):
            move(there, here, patience=lambda held: False, tell=lambda rows: None)
        yard.add()
        assert moved.totals().waiting == 0


def test_no_table_of_a_store_is_forgotten(file: File, database: Database):
    """Who adds a table says in `TABLES` that it is moved, or here why it is not."""
    with closing(file.store()) as store:
        store.now()
    with closing(apsw.Connection(str(file.path))) as db:
        found = {
            name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        }
    assert found - set(TABLES) == {"large", "permit"}, "is the data of large jobs; see below"
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'slimq'::regnamespace "
    query = tables + "AND relkind IN ('r', 'p') AND NOT relispartition"
    found = {name for (name,) in database.db.execute(query)}
    left = {"type_count", "added", "permit"}
    assert found - set(TABLES) == left, "counted anew; empty at commits; nothing runs meanwhile"


class MovingStores(Stores):
    """They move now and then, from a file to PostgreSQL and back."""

    server: Server

    def set_up(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.home: Home = File(Path(self.folder.name), self.clock)
        self.databases: list[Database] = []
        self.moves = 0

    def tear_down(self) -> None:
        for database in self.databases:
            database.close()
        self.folder.cleanup()

    def open(self) -> Store:
        if isinstance(self.home, Database):
            return self.home.store(Floors(full_every_ms=0))
        return self.home.store()

    def recount(self) -> None:
        """The counts are compared with the other store's."""

    @precondition(lambda self: self.moves < 3 and self.ids)
    @rule()
    def move(self) -> None:
        self.clock.advance(LEASE_MS)
        self.moves += 1
        if isinstance(self.home, File):
            target: Home = Database(self.server, self.clock)
            self.databases.append(target)
        else:
            folder = Path(self.folder.name, str(self.moves))
            folder.mkdir()
            target = File(folder, self.clock)
        go(self.home, target)
        self.home = target
        for lock in LOCKS:
            self.nodes[lock].close()
            self.nodes[lock] = self.open()


def test_a_store_that_moves_shows_what_one_that_stays_shows(postgres: Server) -> None:
    MovingStores.server = postgres
    few = settings(max_examples=15, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(MovingStores, settings=few)
