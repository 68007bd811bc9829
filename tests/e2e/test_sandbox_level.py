"""What holds functions is found out by a node at its start, and told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from node_kit import Node, wait_until

from sandbox_kit import need_user


def level_of(node: Node) -> Any:
    def level() -> Any:
        return node.call("GET", "/status")["node"]["sandbox"]

    wait_until(lambda: level() is not None, "the sandbox is examined")
    return level()


def warnings(node: Node) -> list[Any]:
    events = [json.loads(line) for line in node.log if line.startswith("{")]
    return [event for event in events if event["event"] == "sandbox.lacking"]


def test_a_node_tells_how_well_functions_are_held(tmp_path: Path) -> None:
    need_user("root" if os.geteuid() == 0 else "nobody")
    with Node(tmp_path) as node:
        level = level_of(node)
        assert level["ready"] is True
        assert level["summary"].startswith("bubblewrap, seccomp, ")
        assert bool(warnings(node)) is bool(level["lacking"])


def test_a_node_without_bubblewrap_says_how_to_mend_it(tmp_path: Path) -> None:
    with Node(tmp_path, PATH=str(tmp_path)) as node:
        level = level_of(node)
        assert (level["ready"], level["lacking"]) == (False, "bubblewrap is not installed")
        wait_until(lambda: bool(warnings(node)), "a warning")
        assert warnings(node)[0]["advice"] == "apt-get install bubblewrap"


def test_a_node_without_a_sandbox_is_loud(tmp_path: Path) -> None:
    with Node(tmp_path, SLIMQ_FUNCTIONS__SANDBOX="off") as node:
        assert level_of(node)["summary"] == "NO SANDBOX"
        wait_until(lambda: bool(warnings(node)), "a warning")
        assert warnings(node)[0]["level"] == "warning"
