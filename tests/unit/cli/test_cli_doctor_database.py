"""What the doctor says of a PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from postgres_kit import Server
from slimq.cli.checkup_database import database as examine
from slimq.store.place import Place, look, migrate


def states(url: str) -> dict[str, str]:
    return {check.name: check.state for check in examine(url)}


def test_a_database_is_examined_and_nothing_is_made_in_it(database: str) -> None:
    store, durability, privileges = examine(database)
    assert (store.state, privileges.state) == ("ok", "ok")
    assert "schema 0 (empty)" in store.detail
    assert "synchronous_commit" in durability.detail
    assert "fsync off" in durability.detail, "as tests have it"
    assert (durability.state, durability.advice[:10]) == ("fail", "set fsync ")
    assert look(Place(database)).number == 0
    migrate(Place(database))
    assert "(current)" in examine(database)[0].detail


@pytest.fixture
def stranger(postgres: Server, database: str) -> Iterator[Callable[[], str]]:
    """The address of the database for a user who may log in, and nothing else."""
    postgres.create_user("stranger")
    name = database.rpartition("/")[2]
    yield lambda: postgres.url(name, "stranger")
    postgres.execute("DROP OWNED BY stranger CASCADE", database=name)
    postgres.execute("DROP ROLE stranger")


def test_a_user_who_may_not_make_or_use_the_schema_is_found(
    stranger: Callable[[], str], database: str, postgres: Server
) -> None:
    assert states(stranger())["privileges"] == "fail"
    migrate(Place(database))
    (refused,) = examine(stranger())
    assert refused.state == "fail"
    assert "permission denied" in refused.detail
    grants = "GRANT USAGE, CREATE ON SCHEMA slimq TO stranger; "
    grants += "GRANT ALL ON ALL TABLES IN SCHEMA slimq TO stranger"
    postgres.execute(grants, database=database.rpartition("/")[2])
    assert states(stranger())["privileges"] == "fail", "it cannot make partitions"


def test_a_server_that_does_not_answer_is_found_and_no_password_is_shown() -> None:
    (check,) = examine("postgresql://u:secret@127.0.0.1:9/x")
    assert check.state == "fail"
    assert "secret" not in check.detail


def test_a_standby_is_found(make_postgres: Callable[..., Server]) -> None:
    primary = make_postgres()
    with primary.replica() as standby:
        url = standby.url("postgres") + "?target_session_attrs=any"
        by_name = {check.name: check for check in examine(url)}
        assert by_name["privileges"].advice == "name the primary in store.url"


def test_the_doctor_looks_at_the_database_that_holds_the_jobs(
    slimq: Callable[..., Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMQ_STORE__URL", database)
    names = [check["name"] for check in slimq("doctor", "--json").json["checks"]]
    at = names.index("store")
    assert names[at - 1 : at + 3] == ["journal", "store", "durability", "privileges"]
    assert "file system" not in names, "of a store that is not used"
