"""Numbered schema scripts, one folder per dialect: ``sql/<dialect>/0001_<what>.sql``.

A script that was released is never changed; a change is the next number. The number of
the last one that ran is the version of the schema.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    number: int
    sql: str


def scripts(dialect: str) -> list[Script]:
    """Return all scripts of a dialect in order."""
    folder = files("slimq.store").joinpath("sql", dialect)
    found = [
        Script(int(entry.name[:4]), entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    found.sort()
    numbers = [script.number for script in found]
    assert numbers == list(range(1, len(found) + 1)), f"scripts of {dialect}: {numbers}"
    return found
