"""docs/scaling-compute.md: a target that scales from nothing, and what KEDA asks a node."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from node_kit import ECHO, Node, wait_until

from postgres_kit import Server

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


class Scaler:
    """KEDA's scaler `metrics-api` (2.19) for one trigger of the page: it sends what Go sends,
    takes nothing but 200 with a number, and is active above 0."""

    def __init__(self, metadata: dict[str, str], token: str) -> None:
        assert set(metadata) == {"url", "valueLocation", "targetValue", "authMode"}
        assert metadata["authMode"] == "bearer"
        assert float(metadata["targetValue"]) > 0
        self.name = metadata["valueLocation"]
        assert re.fullmatch(r"\w+(\.\w+)*", self.name), "a GJSON path of plain names"
        self._path = metadata["url"].removeprefix("http://slimq-accept.default.svc:3002")
        self._token = token

    def ask(self, node: Node) -> int:
        """Return the status."""
        return self._send(node)[0]

    def value(self, node: Node) -> float:
        status, document = self._send(node)
        assert status == 200
        for name in self.name.split("."):
            document = document[name]
        assert type(document) in (int, float), "GJSON: a number"
        return float(document)

    def is_active(self, node: Node) -> bool:
        return self.value(node) > 0

    def _send(self, node: Node) -> tuple[int, Any]:
        host = node.url.removeprefix("http://")  # what the proxy of the page puts there
        with closing(http.client.HTTPConnection(host, timeout=3)) as connection:
            connection.putrequest("GET", self._path, skip_accept_encoding=True)
            connection.putheader("User-Agent", "Go-http-client/1.1")
            connection.putheader("Authorization", f"Bearer {self._token}")
            connection.putheader("Accept-Encoding", "gzip")
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.headers["Content-Encoding"] is None
            return answer.status, json.load(answer)


def scalers() -> list[Scaler]:
    """Return the scaler of each trigger of the ScaledObject that the page shows."""
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    head, *parts = yaml.split("    - type: metrics-api\n      metadata:\n")
    assert "kind: ScaledObject" in head
    found = [dict(re.findall(r'^        (\w+): "(.*)"$', part, re.M)) for part in parts]
    return [Scaler(metadata, "6f1d0000") for metadata in found]


def test_the_scaled_object_of_the_page_is_active_from_the_first_job_to_the_start_of_the_last(
    node: Node,
) -> None:
    ready, oldest = scalers()
    assert [ready.value(node), oldest.value(node)] == [0, 0], "a type that never had a job"
    node.add("thumbnail", [b"1", b"2", b"3"])
    wait_until(lambda: ready.value(node) == 3, "all are in the store")
    wait_until(lambda: oldest.is_active(node), "they have waited")
    node.put("thumbnail", lang="exec", body=ECHO)
    wait_until(lambda: not ready.is_active(node) and not oldest.is_active(node), "none waits")
    (shown,) = re.findall(r"^    (\{.*\})$", PAGE, re.M)
    assert set(json.loads(shown)) == set(node.call("GET", "/types/thumbnail/load"))


def test_a_scaler_sees_an_error_while_the_store_is_down(
    make_postgres: Callable[..., Server], tmp_path: Path
) -> None:
    server = make_postgres()
    with Node(tmp_path, SLIMQ_STORE__URL=server.url()) as node:
        ready, oldest = scalers()
        server.stop()
        wait_until(lambda: (ready.ask(node), oldest.ask(node)) == (503, 503), "it is an error")
        server.start()
        wait_until(lambda: (ready.ask(node), oldest.ask(node)) == (200, 200), "it is one no more")
