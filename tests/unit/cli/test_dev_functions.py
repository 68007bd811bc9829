"""The folder of ``slimq dev``: what is deployed again, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimq.cli.caller import Caller
from slimq.cli.dev_functions import RETRY_S, FunctionFolder
from slimq.errors import BadHandler, NoContext

SOURCE = "def handler(event, context): pass\n"


class Yard:
    """A folder with one function, a node that refuses it as often as it is told to, and a clock
    that is set by hand."""

    def __init__(self, folder: Path, node: Any) -> None:
        self.file = folder / "hash.py"
        self.file.write_text(SOURCE)
        self.refusals: list[type[NoContext | BadHandler]] = []
        self.tried = 0
        self.now = 0.0
        self.said: list[str] = []
        node.otherwise = (404, {"status": 404})
        node.answers["PUT", "/handlers/hash"] = self._put
        self.functions = FunctionFolder(folder, Caller(node.url), self._say, lambda: self.now)

    def _put(self, _: object) -> tuple[int, Any]:
        self.tried += 1
        if not self.refusals:
            return 200, {"version": 7}
        refusal = self.refusals.pop(0)
        return refusal.status, {"status": refusal.status, "detail": refusal.title}

    def _say(self, jobtype: str, text: str, *, is_bad: bool = False) -> None:
        self.said.append(text)

    def look(self) -> list[str]:
        """Return what is said of it."""
        self.said.clear()
        self.functions.look()
        return list(self.said)


@pytest.fixture
def yard(tmp_path: Path, node: Any) -> Yard:
    return Yard(tmp_path, node)


def test_what_the_node_cannot_take_now_is_tried_again_and_told_once(yard: Yard) -> None:
    yard.refusals = [NoContext, NoContext]
    assert yard.look() == [f"{NoContext.title}; it is tried again every {RETRY_S:g} s"]
    assert yard.look() == []
    assert yard.tried == 1
    yard.now += RETRY_S
    assert yard.look() == []
    assert yard.tried == 2
    yard.now += RETRY_S
    assert yard.look() == ["version 7 is ready"]
    yard.now += RETRY_S
    assert yard.look() == []
    assert yard.tried == 3


def test_a_change_is_tried_at_once_whatever_was_to_be_tried_again(yard: Yard) -> None:
    yard.refusals = [NoContext, BadHandler]
    yard.look()
    yard.file.write_text(SOURCE + "# changed\n")
    assert yard.look() == [BadHandler.title]
    yard.now += RETRY_S
    assert yard.look() == []
    assert yard.tried == 2


def test_a_function_that_is_at_fault_itself_is_not_tried_again(yard: Yard) -> None:
    yard.refusals = [BadHandler]
    assert yard.look() == [BadHandler.title]
    yard.now += RETRY_S
    assert yard.look() == []
    assert yard.tried == 1
