from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import PAGES, name_of

from slimq.config import MARK, document, settings

ALSO_OF_OTHERS = {"data", "journal", "log", "store"}  # files and events begin with them, too
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_about_settings_is_the_one_that_the_table_makes() -> None:
    """To make it anew: python -m slimq.config docs/configuration.md"""
    page = PAGE.read_text("utf-8")
    assert document(page) == page


def test_the_page_names_every_setting_and_its_variable() -> None:
    made = PAGE.read_text("utf-8").partition(MARK)[2]
    for row in settings().values():
        assert f"### {row.name}\n\n{row.help}\n" in made
        assert f"`{row.variable}`" in made


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_calls_a_setting_is_one(page: Path) -> None:
    sections = {name.partition(".")[0] for name in settings()} - ALSO_OF_OTHERS
    names = re.findall(r"`([a-z]+)\.([a-z_]+)(?: =[^`]*)?`", page.read_text("utf-8"))
    said = {f"{section}.{name}" for section, name in names if section in sections}
    assert said <= settings().keys()
