"""What the tests of documentation share: pages, their tables, and names that they point at."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACE = re.compile(r"`((?:src|tests)/[\w./-]+\.py)::([\w.]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def section(text: str, heading: str) -> str:
    """Return what stands between a heading of the second level and the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found is not None, f"there is no section {heading}"
    return found[1]


def block(text: str) -> list[str]:
    """Return the lines of the first code block."""
    found = re.search(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    assert found is not None, "there is no code block"
    return found[1].splitlines()


def rows(text: str) -> list[list[str]]:
    """Return the cells of the first table, without its head."""
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert table is not None, "there is no table"
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[0].splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return what a module defines: `function`, `Class`, `Class.method`, `NAME`."""
    return frozenset(_names(ast.parse(path.read_text("utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign):
            yield from (prefix + name.id for name in node.targets if isinstance(name, ast.Name))


def missing_places(text: str) -> list[str]:
    """Return which places ``path.py::name`` do not exist."""
    return [
        f"{path}::{name}"
        for path, name in PLACE.findall(text)
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]
