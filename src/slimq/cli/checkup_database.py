"""What ``slimq doctor`` finds out about a PostgreSQL. It looks, and makes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slimq.cli.checkup import Check
from slimq.cli.output import printable
from slimq.errors import SlimqError
from slimq.store.migrate import POSTGRES, Schema, known
from slimq.store.place import Place, look, state_of

if TYPE_CHECKING:
    import psycopg

SETTINGS = ("server_version", "fsync", "full_page_writes", "synchronous_commit")
_READ_ONLY = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_MAY_MAKE = "SELECT has_schema_privilege('slimq', 'CREATE, USAGE')"
# Slots of done jobs are made and dropped: only who owns the tables may do that.
_FOREIGN = """
SELECT count(*) FROM pg_class WHERE relnamespace = 'slimq'::regnamespace
  AND relkind IN ('r', 'p') AND NOT pg_has_role(relowner, 'USAGE')
"""
_ADVICE = {
    "old": "it is brought up to date at the next start, or by: slimq db migrate",
    "newer": "fine while nodes are replaced one by one; then install the newer version here, too",
    "too new": "install the newer version of slimq",
}


def database(url: str) -> list[Check]:
    """Whether the PostgreSQL of the store can be used, and keeps what it is given."""
    place = Place(url)
    try:
        schema = look(place)
    except SlimqError as error:
        advice = "see docs/operating.md, PostgreSQL"
        return [Check("store", "fail", printable(error.detail), advice)]
    state = state_of(place, schema)
    bad = state == "too new"
    knows = f"schema {schema.number} ({state}), this slimq knows {known(POSTGRES).latest}"
    detail = f"{printable(place.shown)}, {knows}"
    first = Check("store", "fail" if bad else "ok", detail, _ADVICE.get(state, ""))
    return [first, *_inside(url, schema)]


def _inside(url: str, schema: Schema) -> list[Check]:
    import psycopg

    from slimq.store.postgres_link import connect
    from slimq.store.postgres_trouble import said

    try:
        with connect(url) as db:
            return [_durability(db), _privileges(db, schema)]
    except psycopg.Error as error:
        return [
            Check("durability", "fail", printable(said(error, url)), "see the log of the server")
        ]


def _durability(db: psycopg.Connection[Any]) -> Check:
    found = {name: str(_one(db, f"SHOW {name}")) for name in SETTINGS}
    detail = ", ".join(f"{name} {value}" for name, value in found.items())
    for name in ("fsync", "full_page_writes"):
        if found[name] != "on":
            advice = f"set {name} = on: a power cut may destroy the database"
            return Check("durability", "fail", detail, advice)
    if found["synchronous_commit"] == "off":
        advice = (
            "set synchronous_commit = on: a crash may take back what has ended, and run it again"
        )
        return Check("durability", "warn", detail, advice)
    return Check("durability", "ok", detail)


def _privileges(db: psycopg.Connection[Any], schema: Schema) -> Check:
    name, user = "privileges", printable(str(_one(db, "SELECT current_user")))
    if _one(db, _READ_ONLY):
        return Check(name, "fail", "it cannot be written to", "name the primary in store.url")
    if not schema.number:
        may = _one(db, _MAY_MAKE if schema.made else _MAY_CREATE)
        advice = "let a DBA run what `slimq db sql` prints"
        if not may:
            return Check(name, "fail", f"{user} may not make the schema slimq", advice)
        return Check(name, "ok", f"{user} may make the schema slimq")
    if not _one(db, _MAY_MAKE) or _one(db, _FOREIGN):
        advice = f'GRANT "{printable(schema.owner)}" TO "{user}", or connect as that role'
        return Check(name, "fail", f"{user} does not own all of the schema slimq", advice)
    return Check(name, "ok", f"{user} owns the schema slimq")


def _one(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    return row[0] if row else None
