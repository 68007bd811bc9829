from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from slimq.cli.main import INTERRUPTED, READER_GONE, slimq
from slimq.errors import StartError

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")


def rows(title: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    section = PAGE.partition(f"\n## {title}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None, title
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[0].splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def start_errors(base: type[StartError] = StartError) -> Iterator[type[StartError]]:
    yield base
    for error in base.__subclasses__():
        yield from start_errors(error)


def test_every_exit_code_is_documented_beside_the_error_that_has_it() -> None:
    meaning = {int(code): words for code, words, _ in rows("Exit codes")}
    codes = {error.exit_code for error in start_errors()}
    assert set(meaning) == codes | {0, 1, INTERRUPTED, READER_GONE}
    for error in start_errors():
        if error is not StartError:
            assert f"`{error.slug}`" in meaning[error.exit_code]
    named = set(re.findall(r"`([a-z-]+)`:", " ".join(meaning.values())))
    assert named - {"serve", "check"} <= {error.slug for error in start_errors()}


def verbs(group: click.Group, prefix: str) -> Iterator[str]:
    with group.make_context(prefix, [], resilient_parsing=True) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from verbs(command, f"{prefix} {name}")
            else:
                yield f"{prefix} {name}"


def test_the_commands_in_the_table_are_those_that_there_are() -> None:
    shown = [row[0].strip("`") for row in rows("Commands")]
    assert sorted(shown) == sorted(verbs(slimq, "slimq"))


def test_every_command_that_the_page_shows_exists() -> None:
    known = set(verbs(slimq, "slimq"))
    groups = {" ".join(verb.split()[:2]) for verb in known}
    for words in re.findall(r"`(slimq [a-z].*?)[`|]", PAGE):
        command = " ".join(words.split()[:2])
        assert command in groups, words
        if command not in known:
            assert " ".join(words.split()[:3]) in known, words
