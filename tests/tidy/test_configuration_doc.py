from __future__ import annotations

from pathlib import Path

from slimq.config import MARK, document, settings

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
