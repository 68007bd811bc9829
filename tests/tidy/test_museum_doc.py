"""The museum is complete: every test is on its page, and says what happened and is promised."""

from __future__ import annotations

import ast
import re

import pytest
from doc_pages import ROOT

PAGE = (ROOT / "docs" / "museum.md").read_text("utf-8")
TESTS = sorted((ROOT / "tests" / "museum").glob("test_*.py"))


def test_the_page_names_every_test_once() -> None:
    named = re.findall(r"`(tests/museum/\w+\.py)`", PAGE)
    assert sorted(named) == [str(path.relative_to(ROOT)) for path in TESTS]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_a_test_says_what_happened_elsewhere_and_what_slimq_promises(path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert text is not None
    happened, _, promised = text.partition("\n\nslimq: ")
    assert len(happened) > 60
    assert len(promised) > 60
