"""A function as it is uploaded, read and checked: its files, where it begins, what it needs."""

from __future__ import annotations

from typing import NamedTuple

from slimq.core.bundle import Files, read_body
from slimq.core.entry import Entry, entry_of
from slimq.core.handler import Options
from slimq.core.requirements import python_needed, requirements_of


class Needs(NamedTuple):
    """`requirements` and `python`, the versions that will do, are of lang python only."""

    files: Files
    entry: Entry
    requirements: tuple[str, ...] = ()
    python: str = ""


def needs_of(lang: str, body: object, options: Options) -> Needs:
    """Read a function; raise BadHandler."""
    files = read_body(lang, body)
    entry = entry_of(lang, files, options.handler)
    if lang != "python":
        return Needs(files, entry)
    requirements = requirements_of(files, entry.module, options)
    return Needs(files, entry, requirements, python_needed(files, entry.module))
