"""The curl lines of the README do what it says, in their order, against a real node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from node_kit import Node

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
ADDRESS = "localhost:3001"
# The lines as they stand, but an answer other than 2xx ends the shell.
STRICT = 'set -euo pipefail; curl() { command curl -fsS --max-time 40 "$@"; }; '

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="the lines are for curl")


def curl_lines() -> list[str]:
    """Return the commands of the first screen that call curl."""
    first_screen = README.partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", first_screen, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.search(r"\bcurl ", line)]


def path_of(line: str) -> str:
    found = re.search(rf"{ADDRESS}(/\w*)", line)
    assert found is not None, f"not a call of the node that `make run` starts: {line}"
    return found[1]


def paste(line: str, node: Node) -> Any:
    """Run a line as a reader would; return the document that was answered."""
    here = line.replace(ADDRESS, node.url.replace("http://127.0.0.1", "localhost"))
    shell = subprocess.run(["bash", "-c", STRICT + here], capture_output=True, timeout=60)
    assert shell.returncode == 0, f"{line}\n{shell.stdout!r}\n{shell.stderr!r}"
    return json.loads(shell.stdout)


def test_the_curl_lines_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        answers: dict[str, Any] = {}
        for line in curl_lines():
            answer = paste(line, node)
            answers[path_of(line)] = answer
            if "ids" in answer:  # a reader types slower than jobs run
                results = [node.done(id_)["result"] for id_ in answer["ids"]]
                assert results == ["hello", "world"]
        assert {job["status"] for job in answers["/jobs"]["jobs"]} == {200}
        assert len(answers["/jobs"]["jobs"]) == 2
        assert answers["/stop"]["state"] == "stopped"
        assert answers["/start"]["state"] == "running"
        assert node.ended() == 0


def test_the_readme_shows_the_first_endpoints_and_ends_with_the_way_out() -> None:
    shown = [path_of(line) for line in curl_lines()]
    assert {"/handlers", "/add", "/jobs", "/stop", "/start"} <= set(shown)
    assert shown[-1] == "/quit"
