"""RELIABILITY.md is what the results say, and the plan names figures that proofs report."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from doc_pages import ROOT, missing_places

import page
from plan import PLAN
from results import read


def reported() -> Iterator[tuple[str, set[str]]]:
    """Yield the proofs that modules hold, and the figures that they name somewhere: as an
    argument of `report`, or as a text of their own."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        words = {keyword.arg for call in calls for keyword in call.keywords if keyword.arg}
        words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        for call in calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "proof":
                (name,) = (each.value for each in call.args if isinstance(each, ast.Constant))
                yield name, words


def test_the_page_is_made_of_the_results_and_the_stories() -> None:
    stories = page.STORIES.read_text("utf-8")
    assert page.PAGE.read_text("utf-8") == page.page(read(), stories), "python reliability/page.py"


def test_the_stories_point_at_tests_that_exist() -> None:
    assert missing_places(page.STORIES.read_text("utf-8")) == []


def test_every_figure_with_a_goal_is_reported_by_its_proof() -> None:
    words: dict[str, set[str]] = {}
    for proof, found in reported():
        words.setdefault(proof, set()).update(found)
    for proof, goal in PLAN.items():
        for figure in goal.figures:
            assert proof not in words or figure in words[proof], f"{proof} reports no {figure}"
