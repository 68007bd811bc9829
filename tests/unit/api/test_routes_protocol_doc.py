"""The lines of docs/protocol.md are run, and answered in the shape that it shows."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from routes_kit import Bench, Reply

from slimq.core.job import Result

TEXT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text("utf-8")
LINES = [line[4:] for line in TEXT.splitlines() if line.startswith("    ")]

ABOUT = {
    "version": "0.1.0",
    "roles": ["accept", "run"],
    "host": "alpha",
    "url": "http://127.0.0.1:3001",
    "worker": 1,
    "pid": 4711,
    "data": "/var/lib/slimq",
    "journal_pending_bytes": 0,
    "clock_skew_ms": 3,
}


class Step(NamedTuple):
    command: str
    answer: str


STEPS = [
    Step(command, answer) for command, answer in itertools.pairwise(LINES) if "curl " in command
]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def shape(value: Any) -> Any:
    """Return a JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items() if name != "options"}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__ if isinstance(value, int | float) else _text_shape(str(value))


def _text_shape(text: str) -> str:
    text = re.sub(r"[0-9A-Z_a-z~]{7}-[0-9A-Z_a-z~]{8}-[0-9A-Z_a-z~]{4}", "<id>", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)


def run(bench: Bench, command: str, ids: dict[str, str]) -> Reply:
    """Run one line as a shell and curl would."""
    for written, real in ids.items():
        command = command.replace(written, real)
    body = b""
    if command.startswith("printf "):
        text, _, command = command.partition(" | ")
        body = shlex.split(text)[1].replace("\\n", "\n").encode()
    words = shlex.split(command)[1:]
    method, headers = "", {}
    while len(words) > 1:
        option, value, *words = words
        if option == "-X":
            method = value
        elif option == "-H":
            name, _, text = value.partition(": ")
            headers[name] = text
        elif value != "@-":
            assert option in ("-d", "--data-binary")
            body = value.encode()
    target = words[0].removeprefix("$S")
    return bench.run(bench.call(method or ("POST" if body else "GET"), target, body, headers))


def to_the_store(bench: Bench, ids: list[str], documented: list[str]) -> dict[str, str]:
    """Put jobs into the store as if those that were accepted had arrived there; return
    which id stands for which of the document."""
    stored = bench.add("acme/mail", *[b"first"] * len(ids))
    job = bench.claim("acme/mail")
    bench.finish("acme/mail", job, Result(200, b"sent"))
    return dict(zip(documented, stored, strict=True))


def test_every_line_is_answered_as_it_says(bench: Bench):
    ids: dict[str, str] = {}
    assert len(STEPS) > 25
    for command, documented in STEPS:
        prepare(bench, command)
        reply = run(bench, command, ids)
        if documented == "OK":
            assert reply.body == b"OK"
            continue
        answer, expected = reply.json, json.loads(documented)
        assert shape(answer) == shape(expected), command
        assert ("status" not in expected) or answer["status"] == expected["status"]
        if "/add?" in command:
            ids = to_the_store(bench, answer["ids"], expected["ids"])


def prepare(bench: Bench, command: str) -> None:
    """Make what a line takes for granted."""
    if "/jobs?client=acme" in command:
        bench.add_one("acme/mail")
    if "/nodes" in command:
        bench.register(**ABOUT)
    if "/jobs/retry?outcome=failed" in command or "/types" in command:
        bench.done("acme/mail", 404)
        bench.add("acme/mail", b"x", b"y")


def test_every_route_that_answers_json_has_a_line():
    commands = " ".join(step.command for step in STEPS)
    for path in (
        "/add",
        "/jobs",
        "/handlers",
        "/types",
        "/nodes",
        "/start",
        "/stop",
        "/healthz",
        "/readyz",
    ):
        assert f"$S{path}" in commands
