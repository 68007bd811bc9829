"""The schema of a store: brought up to date once, shared by two versions, refused when newer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import psycopg
import pytest
from store_kit import JOURNAL, NODE, Yard, node

from clock_kit import FakeClock
from postgres_kit import Server
from slimq.core.limits import LEASE_MS
from slimq.errors import StoreTooNew, StoreUnavailable
from slimq.store.base import Cursor
from slimq.store.migrate import DIALECTS, POSTGRES, Migrations, Schema, known, read_script
from slimq.store.place import Place, look
from slimq.store.postgres import PostgresStore
from slimq.store.postgres_link import REST_MS
from slimq.store.sqlite import SqliteStore

COLUMN = "ALTER TABLE {slimq}job ADD COLUMN colour TEXT;\n"


class Home(NamedTuple):
    """An empty place for a store, and stores of several versions of slimq there."""

    place: Place
    clock: FakeClock

    def store(self, *more: str) -> Any:
        """Return the store of a slimq that knows these scripts besides."""
        migrations = self.migrations(*more)
        if self.place.url:
            return PostgresStore(self.place.url, clock=self.clock, migrations=migrations)
        return SqliteStore(
            self.place.path, clock=self.clock, durable=False, boot="b1", migrations=migrations
        )

    def migrations(self, *more: str) -> Migrations:
        scripts = self.place.migrations.scripts
        schema = "slimq." if self.place.url else ""
        new = [
            read_script(f"{number:04}_more", text.format(slimq=schema))
            for number, text in enumerate(more, len(scripts) + 1)
        ]
        return Migrations(self.place.dialect, [*scripts, *new])

    @property
    def latest(self) -> int:
        return self.place.migrations.latest

    def execute(self, statement: str) -> list[Any]:
        """Run a statement as somebody else."""
        if self.place.url:
            with psycopg.connect(self.place.url, autocommit=True) as db:
                found = db.execute(statement.encode())
                return found.fetchall() if found.description else []
        with closing(apsw.Connection(str(self.place.path))) as file:
            return file.execute(statement.replace("slimq.", "")).fetchall()


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    clock = FakeClock()
    if request.param == "sqlite":
        yield Home(Place("", tmp_path / "store.db"), clock)
    else:
        yield Home(Place(request.getfixturevalue("database")), clock)


COMPATIBLE = "-- least: 1\n" + COLUMN


def test_two_versions_of_slimq_work_on_one_store_when_the_change_allows_it(home: Home):
    with closing(home.store()) as old, closing(home.store(COMPATIBLE)) as new:
        yard = Yard(old, new, home.clock)
        yard.add(count=2)
        yard.ingest(yard.new(count=2), store=new)
        assert look(home.place) == look(home.place)._replace(number=home.latest + 1, least=1)
        assert len(yard.claim(limit=3)) == 3
        yard.ingest(yard.new(count=1), store=old)
        old.close()  # a connection that breaks is made anew
        assert len(yard.claim(lock=NODE)) == 2
        assert new.totals().running == 5


def test_a_change_that_locks_the_older_slimq_out_waits_until_its_nodes_are_gone(home: Home):
    with closing(home.store()) as old, closing(home.store(COLUMN)) as new:
        old.register(node())
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"nodes are too old for .*stop them first"):
                new.totals()
        assert look(home.place).number == home.latest
        old.beat(node())  # it works on
        old.leave(NODE)
        home.clock.advance(REST_MS)
        assert new.totals().types == 0
        assert look(home.place).least == home.latest + 1


def test_a_node_that_died_holds_up_the_change_for_one_lease_at_most(home: Home):
    with closing(home.store()) as old, closing(home.store(COLUMN)) as new:
        old.register(node())
        old.close()
        home.clock.advance(LEASE_MS)
        home.execute(f"UPDATE slimq.node SET seen_at = seen_at - {LEASE_MS}")
        assert new.totals().types == 0


def test_a_newer_schema_is_refused_with_what_to_do_also_in_mid_life(home: Home):
    with closing(home.store()) as old, closing(home.store(COLUMN)) as new:
        yard = Yard(old, new, home.clock)
        yard.add()
        new.totals()
        old.close()  # the next call connects anew
        for _ in range(2):
            with pytest.raises(StoreTooNew, match=r"has schema \d+, .* install the newer version"):
                yard.add()
        with closing(home.store()) as another, pytest.raises(StoreTooNew):
            another.totals()
        assert new.totals().waiting == 1


def test_what_a_script_does_is_all_there_or_nothing(home: Home):
    broken = "CREATE TABLE {slimq}half (x integer);\nSELECT nothing FROM nowhere;\n"
    with closing(home.store()) as old, closing(home.store(COMPATIBLE, broken)) as new:
        old.totals()
        with pytest.raises((StoreUnavailable, apsw.SQLError)):
            new.totals()
        assert look(home.place).number == home.latest
        with pytest.raises((apsw.SQLError, psycopg.errors.UndefinedColumn)):
            home.execute("SELECT colour FROM slimq.job")


def test_what_a_dba_is_given_does_the_same_as_the_start_of_a_node(home: Home):
    assert "COMMIT;" in home.migrations().text(Schema())
    home.execute(home.migrations().text(Schema()))
    made = look(home.place)
    assert made.number == home.latest
    assert home.migrations().text(made) == ""
    text = home.migrations(COMPATIBLE, COLUMN.replace("colour", "size")).text(made)
    home.execute(text)
    assert look(home.place) == made._replace(number=home.latest + 2, least=home.latest + 2)
    with closing(home.store(COMPATIBLE, COLUMN)) as store:
        Yard(store, store, home.clock).add()


def test_what_a_dba_is_given_for_another_schema_changes_nothing(database: str):
    home = Home(Place(database), FakeClock())
    home.execute(home.migrations().text(Schema()))
    text = home.migrations(COMPATIBLE).text(look(home.place))
    home.execute(text)
    for again in (text, home.migrations().text(Schema())):
        with pytest.raises(psycopg.Error, match=r"is not \d any more|already exists"):
            home.execute(again)
    assert look(home.place).number == home.latest + 1


_START = """
import sys
from pathlib import Path
from slimq.store.place import place_of
store = place_of(sys.argv[1]).open()
print("ready", flush=True)
sys.stdin.readline()
print(store.totals().types, flush=True)
store.close()
"""


def test_nodes_that_start_at_once_on_an_empty_store_make_its_schema_once(home: Home):
    words = [sys.executable, "-c", _START, home.place.url or str(home.place.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    nodes = [subprocess.Popen(words, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    assert [node.stdout.readline() for node in nodes] == ["ready\n"] * 4
    for process in nodes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=30)[0] for process in nodes] == ["0\n"] * 4
    assert look(home.place).number == home.latest


@pytest.fixture
def limited(postgres: Server, database: str) -> Iterator[str]:
    """The address of a database for a user who may log in, and nothing else."""
    postgres.create_user("limited")
    name = database.rpartition("/")[2]
    yield postgres.url(name, "limited")
    postgres.execute("DROP OWNED BY limited CASCADE", database=name)
    postgres.execute("DROP ROLE limited")


def test_missing_privileges_are_one_line_that_names_the_way_out(limited: str, database: str):
    clock = FakeClock()
    with closing(PostgresStore(limited, clock=clock)) as store:
        with pytest.raises(StoreUnavailable, match=r"permission denied .*slimq db sql") as refusal:
            store.totals()
        assert "\n" not in refusal.value.detail
        Home(Place(database), FakeClock()).execute(known(POSTGRES).text(Schema(), owner="limited"))
        assert look(Place(limited)) == Schema(known(POSTGRES).latest, 1, True, "limited")
        clock.advance(REST_MS)
        store.register(node())  # makes partitions, too
        store.ingest(JOURNAL, Cursor(), Cursor(1), [])


def test_a_schema_that_was_made_for_the_user_and_is_empty_is_used(limited: str, database: str):
    Home(Place(database), FakeClock()).execute("CREATE SCHEMA slimq AUTHORIZATION limited")
    with closing(PostgresStore(limited, clock=FakeClock())) as store:
        assert store.totals().types == 0


def test_a_schema_of_another_program_is_left_alone(database: str):
    home = Home(Place(database), FakeClock())
    home.execute("CREATE SCHEMA slimq CREATE TABLE slimq.theirs (x integer)")
    with closing(home.store()) as store, pytest.raises(StoreUnavailable, match="another program"):
        store.totals()
    assert home.execute("SELECT count(*) FROM pg_class WHERE relname = 'job'") == [(0,)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_script_says_in_order_what_it_is(dialect: str):
    scripts = known(DIALECTS[dialect]).scripts
    assert all(1 <= script.least <= script.number for script in scripts)
    assert scripts[0].least == 1
