"""What commands print: JSON for programs, tables and next steps for people.

What comes from elsewhere (data, names, errors) is shown with its control characters
escaped: nobody's job may drive the terminal of who looks at it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from slimq.errors import SlimqError, StartError

UNEXPECTED = 1
_CELL_MAX = 60
_STDERR = 2  # the last of the standard streams
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))

json_option: Callable[..., Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for programs."
)


def print_json(document: Any) -> None:
    """Print a document as it is; ASCII, so that any terminal and any locale can show it."""
    click.echo(json.dumps(document, indent=2))


def printable(text: str) -> str:
    """Return text on one line, safe for a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text.rstrip("\n"))


def printable_lines(text: str) -> str:
    """Return text safe for a terminal, on the lines it has."""
    return "\n".join(printable(line) for line in text.rstrip("\n").split("\n"))


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = printable(str(value))
    return text if len(text) <= _CELL_MAX else text[: _CELL_MAX - 3] + "..."


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table; columns of numbers are aligned to the right."""
    values = [list(row) for row in rows]
    cells = [list(titles)] + [[cell(value) for value in row] for row in values]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    right = [
        bool(values) and all(_is_amount(row[column]) for row in values)
        for column in range(len(titles))
    ]
    return ["  ".join(_fit(row, widths, right)).rstrip() for row in cells]


def _is_amount(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _fit(row: list[str], widths: list[int], right: list[bool]) -> list[str]:
    return [
        text.rjust(width) if to_right else text.ljust(width)
        for text, width, to_right in zip(row, widths, right, strict=True)
    ]


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    for line in table(titles, rows):
        click.echo(line)


def print_members(members: Mapping[str, Any]) -> None:
    """Print names and values below each other."""
    width = max(map(len, members), default=0)
    for name, value in members.items():
        click.echo(f"{name.ljust(width)}  {cell(value)}")


def print_next(*steps: str) -> None:
    """Say what one would do after this. Goes to stderr: it is no part of the answer."""
    for number, step in enumerate(steps):
        click.echo(f"{'next: ' if number == 0 else '      '}{step}", err=True)


def print_failure(error: SlimqError) -> int:
    """Say on one line what went wrong; return the exit code."""
    click.echo(f"slimq: {printable(error.detail)}", err=True)
    return error.exit_code if isinstance(error, StartError) else UNEXPECTED


def size_text(size: float) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def instant_text(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}Z"


def duration_text(ms: float) -> str:
    """Return a duration for people: two units at most."""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(int(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def open_closed_streams() -> None:
    """Make standard streams that were closed (`slimq serve >&-`) go to nowhere. Python has None
    in place of them; and the next file that is opened would get their number, and be written
    into by whatever has something to say."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(nowhere, True)
    os.close(nowhere)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def flush_or_drop(stream: TextIO) -> None:
    """Write what is buffered. If nobody reads it, drop it, and what comes: else Python tries
    again at the exit, and ends with code 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except ValueError:  # it is closed: nothing is left
        pass
