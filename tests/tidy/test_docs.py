"""What the pages point at exists: files, make targets, commands, metrics. Bounds have reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from doc_pages import PAGES, ROOT, missing_places, name_of

from slimq.api.metrics import METRIC_NAMES
from slimq.cli.main import slimq

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:src|tests|docs|bench|examples|config)/[\w./*-]+|[A-Z]{6,}\.md|Makefile)")
FENCED = re.compile(r"^```\w*\n.*?^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
OPERATING = (ROOT / "docs" / "operating.md").read_text("utf-8")

page_by_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def code_of(page: Path) -> Iterator[str]:
    """Yield every line of code that a page shows: in blocks, and between backticks."""
    text = page.read_text("utf-8")
    for found in FENCED.findall(text):
        yield from found.splitlines()
    yield from CODE.findall(FENCED.sub("", text))
    yield from re.findall(r"^    (\S.*)$", text, re.M)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@page_by_page
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = page.parent / parts.path if parts.path else page
        assert target.exists(), link
        assert ROOT in target.resolve().parents, link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


@page_by_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    for name in FILE.findall(FENCED.sub("", page.read_text("utf-8"))):
        if name.startswith("config/"):
            continue  # the configuration of a node: it is the reader's own
        assert list(ROOT.glob(name)), name


@page_by_page
def test_every_place_in_the_code_that_is_named_exists(page: Path) -> None:
    assert missing_places(page.read_text("utf-8")) == []


def test_there_is_a_page_for_all_that_another_promises() -> None:
    linked = {
        (page.parent / urlsplit(link).path).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text("utf-8"))
        if not urlsplit(link).scheme
    }
    alone = {name_of(page) for page in PAGES if page.resolve() not in linked}
    assert alone <= {"README.md", "CONTRIBUTING.md"}


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.M))


@page_by_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    named = {
        word for code in code_of(page) for word in re.findall(r"(?:^|[;&] *)make ([a-z-]+)", code)
    }
    assert named <= targets()


def test_every_make_target_says_what_it_does_and_is_phony() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets() == set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.M))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony is not None
    assert targets() == set(phony[1].split())


def commands_in(code: str) -> Iterator[list[str]]:
    """Yield the words behind each `slimq` of a line; ``a|b`` stands for both."""
    for words in re.findall(r"(?:^|[|;&] *|[$] )slimq ((?:[a-z]+(?:\\?\|[a-z]+)*(?: |$))+)", code):
        yield words.replace("\\", "").split()


@page_by_page
def test_every_command_that_is_shown_exists(page: Path) -> None:
    with click.Context(slimq) as context:
        for code in code_of(page):
            for words in commands_in(code):
                for name in words[0].split("|"):
                    command = slimq.get_command(context, name)
                    assert command is not None, code
                    if isinstance(command, click.Group) and len(words) > 1:
                        known = set(command.list_commands(context))
                        assert set(words[1].split("|")) <= known, code


def test_a_command_that_does_not_exist_would_be_found() -> None:
    """The test above can fail."""
    assert list(commands_in("slimq jobs ls|get --json")) == [["jobs", "ls|get"]]
    assert list(commands_in("tail -f app.log | slimq add lines")) == [["add", "lines"]]
    assert list(commands_in("the word slimq alone")) == []


def test_every_metric_that_is_named_exists() -> None:
    for page in PAGES:
        named = set(re.findall(r"\bslimq_[a-z_]+\b", page.read_text("utf-8")))
        assert named <= set(METRIC_NAMES), name_of(page)


def test_every_metric_is_explained_once() -> None:
    explained = Counter(re.findall(r"^\| `(slimq_[a-z_]+)", OPERATING, re.M))
    assert explained == Counter(METRIC_NAMES)


def test_every_bound_has_its_reason_beside_it() -> None:
    source = (ROOT / "src" / "slimq" / "core" / "limits.py").read_text("utf-8")
    bounds = re.findall(r"^([A-Z_]+) = ([^#\n]*)(#.*)?$", source, re.M)
    assert len(bounds) > 50
    units = {"KIB", "MIB"}
    assert [name for name, _, why in bounds if not why and name not in units] == []


def test_every_bound_is_kept_somewhere() -> None:
    """A bound that nothing reads bounds nothing."""
    source = (ROOT / "src" / "slimq" / "core" / "limits.py").read_text("utf-8")
    code = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py") if path.name != "limits.py"
    )
    bounds = re.findall(r"^([A-Z_]+) =", source, re.M)
    used = {name for name in bounds if re.search(rf"\b{name}\b", code)}
    assert set(bounds) - used == set()
