"""Numbered schema scripts, one folder per dialect: ``sql/<dialect>/0001_<what>.sql``.

A script that was released is never changed; a change is the next number. The number of
the last one that ran is the version of the schema.

Beside it a store keeps the least schema that a slimq must know to work on it. A script
whose change an older slimq does not notice says so in its first line: ``-- least: 1``. So
the nodes of two adjacent versions may share a store while they are replaced one by one.
Without such a line only a slimq that knows the script can go on.

The statements that a store runs itself and those that ``slimq db sql`` prints are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from slimq.errors import StoreTooNew

APPLICATION_ID = 0x736C6D71  # "slmq": tells our SQLite files from other databases
LOCK = 0x736C6D71  # of PostgreSQL; held to the end of the transaction, no longer
_LEAST = re.compile(r"-- least: (\d+)\n")


class Script(NamedTuple):
    number: int
    name: str
    least: int  # the oldest slimq, by the schema it knows, that may work on what this makes
    sql: str


class Schema(NamedTuple):
    """What a store has: `number` is 0 when there is nothing yet. `owner` is who owns its
    tables, `made` says whether the namespace for them is there (both of PostgreSQL)."""

    number: int = 0
    least: int = 0
    made: bool = False
    owner: str = ""


class Dialect(NamedTuple):
    """How a migration begins, and how it is recorded. Its end is the same everywhere."""

    name: str
    begin: str
    record: str


SQLITE = Dialect(
    "sqlite",
    "BEGIN EXCLUSIVE",
    f"PRAGMA application_id = {APPLICATION_ID};\n"
    "PRAGMA user_version = {number};\n"
    "REPLACE INTO meta VALUES ('schema_least', {least})",
)
POSTGRES = Dialect(
    "postgres",
    f"BEGIN;\nSELECT pg_advisory_xact_lock({LOCK})",  # of several nodes, one does it
    "INSERT INTO slimq.meta VALUES ('schema', {number}), ('schema_least', {least})\n"
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
)
DIALECTS = {dialect.name: dialect for dialect in (SQLITE, POSTGRES)}


def read_script(name: str, sql: str) -> Script:
    """Return a script by the name of its file, without the ending."""
    number = int(name[:4])
    said = _LEAST.match(sql)
    return Script(number, name, int(said[1]) if said else number, sql)


class Migrations:
    """All scripts of a dialect that this slimq knows."""

    def __init__(self, dialect: Dialect, scripts: Sequence[Script]) -> None:
        self.dialect = dialect
        self.scripts = sorted(scripts)
        numbers = [script.number for script in self.scripts]
        assert numbers == list(range(1, len(numbers) + 1)), f"scripts of {dialect.name}: {numbers}"

    @property
    def latest(self) -> int:
        return len(self.scripts)

    def missing(self, schema: Schema) -> list[Script]:
        """Return the scripts that are still to be run."""
        return self.scripts[schema.number :]

    def check(self, schema: Schema, shown: str) -> None:
        """Raise StoreTooNew when this slimq cannot work on a store."""
        if schema.number > self.latest and schema.least > self.latest:
            raise StoreTooNew(
                f"the store {shown} has schema {schema.number}, which needs a slimq that knows "
                f"schema {schema.least}, this slimq knows {self.latest}: install the newer version"
            )

    def locks_out(self, schema: Schema) -> bool:
        """Return whether the slimq that made this schema cannot work on it any more when
        the missing scripts have run."""
        return 0 < schema.number < max((each.least for each in self.missing(schema)), default=0)

    def statements(self, schema: Schema, *, owner: str = "") -> list[str]:
        """Return what brings a store up to date, and records that. It is for one transaction.
        In PostgreSQL all is made for the role `owner`, if one is named."""
        found = _namespace(schema, owner) if self.dialect is POSTGRES else []
        least = schema.least
        for script in self.missing(schema):
            least = max(least, script.least)
            found.append(script.sql)
            found.append(self.dialect.record.format(number=script.number, least=least))
        return found

    def text(self, schema: Schema, *, owner: str = "") -> str:
        """Return a file of SQL that does it all, in one transaction; "" if nothing is to do."""
        if not self.missing(schema):
            return ""
        parts = [self.dialect.begin]
        if self.dialect is POSTGRES and schema.number:
            parts.append(_AS_IT_WAS.format(schema.number))
        parts += self.statements(schema, owner=owner)
        ended = [part.rstrip().removesuffix(";") + ";\n" for part in (*parts, "COMMIT")]
        return "\n".join(ended)


# Between the printing and the running somebody else may have run it.
_AS_IT_WAS = """
DO $$ BEGIN
  IF (SELECT value FROM slimq.meta WHERE name = 'schema') <> {0} THEN
    RAISE EXCEPTION 'the schema is not {0} any more: print this again';
  END IF;
END $$
""".strip()


def _namespace(schema: Schema, owner: str) -> list[str]:
    role = '"' + owner.replace('"', '""') + '"'
    made = [] if schema.made else [f"CREATE SCHEMA slimq{f' AUTHORIZATION {role}' * bool(owner)}"]
    return [*made, f"SET LOCAL ROLE {role}"] if owner else made


@cache
def known(dialect: Dialect) -> Migrations:
    """Return all scripts of a dialect that came with this slimq."""
    folder = files("slimq.store").joinpath("sql", dialect.name)
    return Migrations(
        dialect,
        [
            read_script(entry.name.removesuffix(".sql"), entry.read_text("utf-8"))
            for entry in folder.iterdir()
            if entry.name.endswith(".sql")
        ],
    )
