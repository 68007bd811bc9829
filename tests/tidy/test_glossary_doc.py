"""The states, outcomes and statuses of docs/glossary.md are those of the code."""

from __future__ import annotations

import ast

import pytest
from doc_pages import ROOT, rows, section

from slimq.core import status as statuses
from slimq.core.lifecycle import DONE, State, state_of
from slimq.core.status import Outcome, outcome_of

PAGE = (ROOT / "docs" / "glossary.md").read_text("utf-8")
NOW = 1_795_000_000_000
DT = {"in the future": NOW + 1, "past": NOW, "beyond the year 3000": 1 << 60}
LOCK = {"empty": "", "a sysid": "nodeAAAA", f"`{DONE}`": DONE}


def test_the_states_are_those_of_the_machine() -> None:
    table = rows(section(PAGE, "States"))
    assert [row[0] for row in table] == [state.value for state in State]
    for name, dt, lock, _ in table:
        assert state_of(DT[dt], LOCK[lock], NOW) == name


def test_the_outcomes_are_those_of_the_code() -> None:
    table = rows(section(PAGE, "Outcomes"))
    assert {row[0].lower() for row in table} == set(Outcome)
    for name, code, _ in table:
        assert outcome_of(int(code[0]) * 100) == name.lower()


def test_the_statuses_that_slimq_gives_are_those_of_the_code() -> None:
    table = rows(section(PAGE, "Statuses that slimq gives"))
    named = {name: value for name, value in vars(statuses).items() if type(value) is int}
    assert {name: int(code) for code, name, _ in table} == named


def test_every_word_is_explained_once_and_refused_words_are_no_words() -> None:
    table = rows(section(PAGE, "Words"))
    words = [word.strip() for row in table for word in row[0].split(",")]
    assert len(set(words)) == len(words)
    refused = [word.strip() for row in table for word in row[2].partition(";")[0].split(",")]
    assert not set(words) & set(refused)


@pytest.mark.parametrize("word", ["tenant", "executor", "jail", "ack"])
def test_no_name_in_the_code_uses_a_refused_word(word: str) -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert word not in node.name.lower().split("_"), f"{path}: {node.name}"
