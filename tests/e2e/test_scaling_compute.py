"""docs/scaling-compute.md: a target that scales from nothing, and what KEDA asks a node."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import Node

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling-compute.md").read_text("utf-8")
WORDS = ("--port", "0", "--boot", "0.7", "--room", "3", "--most", "2")
JOBS = 40


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as node:
        yield node


@pytest.fixture
def platform() -> Iterator[str]:
    """The address of a target that has no instance yet."""
    words = [sys.executable, str(ROOT / "examples" / "autoscaled.py"), *WORDS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


def test_a_target_that_is_cold_and_then_small_does_all_jobs_and_none_has_a_failure(
    node: Node, platform: str
) -> None:
    node.put("hash", lang="http", body=platform, options={"concurrency": 16})
    ids = node.add("hash", [b"%d" % number for number in range(JOBS)])
    jobs = [node.done(id_) for id_ in ids]
    assert {(job["status"], job["failures"]) for job in jobs} == {(200, 0)}
    with urllib.request.urlopen(platform) as answer:
        counts: Any = json.load(answer)
    assert counts["answers"]["200"] == JOBS, "and each once"
    assert counts["answers"]["503"] > 0
    assert counts["answers"]["429"] > 0
    assert counts["instances"] == 2
    asked_again = sum(job["attempt"] - 1 for job in jobs)
    assert asked_again == counts["answers"]["503"] + counts["answers"]["429"]


def triggers() -> list[dict[str, str]]:
    """Return the metadata of each trigger of the ScaledObject that the page shows."""
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    head, *parts = yaml.split("    - type: metrics-api\n      metadata:\n")
    assert "kind: ScaledObject" in head
    return [dict(re.findall(r'^        (\w+): "(.*)"$', part, re.M)) for part in parts]


def test_what_the_scaled_object_of_the_page_asks_a_node_answers_with_a_number(
    node: Node,
) -> None:
    node.add("thumbnail", [b"1", b"2", b"3"])
    found = {}
    for trigger in triggers():
        assert set(trigger) == {"url", "valueLocation", "targetValue"}
        path = trigger["url"].removeprefix("http://slimq-accept.default.svc:3001")
        document = node.call("GET", path)
        for name in trigger["valueLocation"].split("."):  # a GJSON path of plain names
            document = document[name]
        found[trigger["valueLocation"]] = document
        assert int(trigger["targetValue"]) > 0
    assert found["ready"] in range(4), "as far as they are in the store"
    assert found["oldest_wait_ms"] >= 0
    (shown,) = re.findall(r"^    (\{.*\})$", PAGE, re.M)
    assert set(json.loads(shown)) == set(node.call("GET", "/types/thumbnail/load"))
