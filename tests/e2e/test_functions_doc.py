"""What `docs/functions.md` shows runs as it stands there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import Node

from sandbox_kit import need
from slimq.core.handler import OPTION_NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "functions.md").read_text("utf-8")
SOURCES = [
    source
    for source in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    if "def handler" in source
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    need(shutil.which("bwrap") is not None, "bubblewrap is missing: apt-get install bubblewrap")
    with Node(tmp_path_factory.mktemp("node")) as node:
        yield node


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_shows_functions() -> None:
    assert len(SOURCES) >= 2


@pytest.mark.parametrize("number", range(len(SOURCES)))
def test_every_function_of_the_page_runs(node: Node, number: int) -> None:
    node.put(f"shown{number}", lang="python", body=SOURCES[number])
    jobs = [node.done(id_) for id_ in node.add(f"shown{number}", [b"hello", b"world"])]
    assert [job["status"] for job in jobs] == [200, 200], jobs


def test_a_context_has_every_member_of_the_table_and_the_exceptions(node: Node) -> None:
    rows = [line.split("|")[1] for line in section("The context").splitlines() if "|" in line]
    members = [name for row in rows for name in re.findall(r"`(\w+)(?:\(.*?\))?`", row)]
    raised = re.findall(r"raises `context\.(\w+)", PAGE)
    assert len(members) > 10
    assert len(raised) == 2
    source = (
        f"def handler(event, context):\n"
        f"    return [name for name in {members + raised!r} if not hasattr(context, name)]\n"
    )
    node.put("members", lang="python", body=source)
    (id_,) = node.add("members", [b"x"])
    assert json.loads(node.done(id_)["result"]) == []


def test_every_option_that_the_page_names_is_one() -> None:
    named = set(re.findall(r"--option (\w+)=", PAGE)) | set(re.findall(r"[Oo]ption `(\w+)`", PAGE))
    assert named
    assert named <= set(OPTION_NAMES)
