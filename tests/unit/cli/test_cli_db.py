from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from slimq.errors import ConfigError
from slimq.store.place import Place, look, migrate, place_of

Slimq = Callable[..., Any]


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store."""
    if request.param == "file":
        return Place("", tmp_path / "store.db")
    return Place(request.getfixturevalue("database"))


def at(place: Place) -> tuple[str, str]:
    return ("--store-url", place.url) if place.url else ("--store", str(place.path))


def test_the_version_is_told_and_nothing_is_made_by_asking(place: Place, slimq: Slimq) -> None:
    latest = place.migrations.latest
    told = {"store": place.shown, "schema": 0, "least": 0, "known": latest, "state": "empty"}
    assert slimq("db", "version", *at(place), "--json").json == told
    assert look(place).number == 0
    assert place.url or not place.path.exists()
    migrate(place)
    assert slimq("db", "version", *at(place), "--json").json["state"] == "current"


def test_a_migration_is_planned_then_run_then_nothing_is_left(place: Place, slimq: Slimq) -> None:
    names = [script.name for script in place.migrations.scripts]
    plan = slimq("db", "migrate", "--plan", *at(place))
    assert plan.out.splitlines()[0] == f"would run {place.dialect.name}/{names[0]}"
    assert look(place).number == 0
    run = slimq("db", "migrate", *at(place), "--json").json
    assert run == {"store": place.shown, "schema": len(names), "scripts": names}
    assert slimq("db", "migrate", *at(place), "--json").json["scripts"] == []


def test_what_is_printed_for_a_dba_makes_the_store(place: Place, slimq: Slimq) -> None:
    text = slimq("db", "sql", *at(place)).out
    if place.url:
        with psycopg.connect(place.url, autocommit=True) as db:
            db.execute(text.encode())
    else:
        with closing(apsw.Connection(str(place.path))) as file:
            file.execute(text)
    assert look(place).number == place.migrations.latest
    nothing = slimq("db", "sql", *at(place))
    assert (nothing.code, nothing.out) == (0, "")
    assert slimq("db", "sql", "--dialect", place.dialect.name).out.endswith("COMMIT;\n")


def test_the_role_that_all_is_made_for_may_be_named(slimq: Slimq) -> None:
    text = slimq("db", "sql", "--dialect", "postgres", "--owner", 'no"des').out
    assert 'CREATE SCHEMA slimq AUTHORIZATION "no""des";' in text
    assert 'SET LOCAL ROLE "no""des";' in text


@pytest.mark.parametrize("wrong", ["", "mysql://x/y", "http://127.0.0.1/"])
def test_what_is_no_place_for_a_store_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"a store is a file or a URL postgresql://\.\.\."):
        place_of(wrong)


def test_a_server_that_is_not_there_is_one_line(slimq: Slimq) -> None:
    for words in (("version",), ("migrate",), ("sql",)):
        said = slimq("db", *words, "--store-url", "postgresql://u:secret@127.0.0.1:9/x")
        assert said.code == 1
        assert said.err.count("\n") == 1
        assert "secret" not in said.err
        assert "cannot be used: " in said.err
