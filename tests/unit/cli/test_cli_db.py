from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from slimq.core.jobid import Minter
from slimq.errors import ConfigError
from slimq.store.base import Cursor, NewJobs
from slimq.store.place import Place, look, migrate, place_of

Slimq = Callable[..., Any]
JOBS = 2_500  # more than one batch, and than the bar is told of at once


@pytest.fixture(params=["file", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a store."""
    if request.param == "file":
        return Place("", tmp_path / "store.db")
    return Place(request.getfixturevalue("database"))


@pytest.fixture
def other(place: Place, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of the other kind."""
    if place.url:
        return Place("", tmp_path / "other.db")
    return Place(request.getfixturevalue("database"))


def at(place: Place) -> tuple[str, str]:
    return ("--store-url", place.url) if place.url else ("--store", str(place.path))


def where(place: Place) -> str:
    return place.url or str(place.path)


def fill(place: Place) -> list[str]:
    """Add jobs to a store; return their ids."""
    ids = Minter("nodeAAAA").block(JOBS, 0).ids()
    with closing(place.open()) as store:
        jobs = NewJobs("a/b", 0, ids, [b"data"] * JOBS)
        store.ingest("journal", Cursor(), Cursor(1, 2), [jobs])
    return ids


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


def test_a_store_is_moved_once_and_its_jobs_are_counted(
    place: Place, other: Place, slimq: Slimq
) -> None:
    ids = fill(place)
    moved = slimq("db", "copy", "--from", where(place), "--to", where(other), "--json").json
    assert moved["jobs"] == {"waiting": JOBS, "running": 0, "ok": 0, "failed": 0, "error": 0}
    assert moved["rows"]["job"] == JOBS
    with closing(other.open()) as store:
        assert store.totals().waiting == JOBS
        assert store.cursor("journal") == Cursor(1, 2)
        claim = store.claim("a/b", "n", JOBS, lease_ms=1000, bytes_max=1 << 30)
        assert [job.id for job in claim.jobs] == ids
    again = slimq("db", "copy", "--from", where(place), "--to", where(other))
    assert again.code == 1
    assert "is not empty" in again.err.splitlines()[-1]


def test_a_moved_store_is_opened_again_when_that_is_wanted(
    place: Place, other: Place, slimq: Slimq
) -> None:
    fill(place)
    copied = slimq("db", "copy", "--from", where(place), "--to", where(other))
    assert "compared on both sides" in copied.out
    assert "slimq start" in copied.err
    assert slimq("db", "reopen", *at(place), "--yes").out.endswith("is open again\n")
    with closing(place.open()) as store:
        assert len(store.claim("a/b", "n", 9, lease_ms=1000, bytes_max=1 << 30).jobs) == 9
    assert slimq("db", "reopen", *at(place), "--yes").out.endswith("was open\n")


@pytest.mark.parametrize("wrong", ["", "mysql://x/y", "http://127.0.0.1/"])
def test_what_is_no_place_for_a_store_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"a store is a file or a URL postgresql://\.\.\."):
        place_of(wrong)


def test_a_source_that_is_not_there_is_no_empty_store(tmp_path: Path, slimq: Slimq) -> None:
    nothing, target = tmp_path / "nothing.db", tmp_path / "target.db"
    said = slimq("db", "copy", "--from", str(nothing), "--to", str(target))
    assert (said.code, said.err) == (2, f"slimq: there is no store at {nothing}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_one_line(slimq: Slimq) -> None:
    for words in (("version",), ("migrate",), ("sql",)):
        said = slimq("db", *words, "--store-url", "postgresql://u:secret@127.0.0.1:9/x")
        assert said.code == 1
        assert said.err.count("\n") == 1
        assert "secret" not in said.err
        assert "cannot be used: " in said.err
