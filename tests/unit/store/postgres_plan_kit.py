"""What the server did for each statement of a store, as auto_explain writes it to its log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from psycopg import errors

from postgres_kit import Server

_EXPLAIN = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
}
_HEAD = re.compile(r"^\d{4}-\d\d-\d\d .*?\[\d+\] (.*)")
_PLAN = re.compile(r"LOG:  duration: [\d.]+ ms  plan:")


class Step(NamedTuple):
    """A node of a plan. Numbers are those of all its loops."""

    kind: str
    relation: str
    index: str
    rows: int
    removed: int
    blocks: int


class Plan(NamedTuple):
    query: str
    steps: list[Step]

    def reading(self, relation: str) -> list[Step]:
        """Return the steps that read a table or a partition of it."""
        named = re.compile(rf"{relation}(_\d+|_other)?$")
        return [
            step for step in self.steps if named.match(step.relation) and step.kind != "ModifyTable"
        ]


class Watched:
    """A database whose statements are explained, to sessions that were opened by `url`."""

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self._url = url
        try:
            server.execute("LOAD 'auto_explain'")
        except errors.UndefinedFile:
            pytest.skip("this PostgreSQL has no auto_explain")
        self._mark = "no mark yet"
        self.forget()

    def url(self, settings: Mapping[str, str]) -> str:
        return f"{self._url}?options={_options(_EXPLAIN | dict(settings))}"

    def forget(self) -> None:
        """Pass over what was done so far."""
        self._at = self._server.log.stat().st_size

    def plans(self) -> list[Plan]:
        """Return the plans of the statements since then."""
        with self._server.log.open("rb") as log:
            log.seek(self._at)
            text = log.read().decode(errors="replace")
        found = [json.loads(body) for body in _bodies(text)]
        return [Plan(each["Query Text"], list(_steps(each["Plan"]))) for each in found]


def with_settings(url: str, settings: Mapping[str, str]) -> str:
    """Return the address of the same database for sessions that have these settings."""
    return f"{url}?options={_options(settings)}" if settings else url


def _options(settings: Mapping[str, str]) -> str:
    return quote(" ".join(f"-c {name}={value}" for name, value in settings.items()))


def _bodies(text: str) -> Iterator[str]:
    """Yield the plans in a log. Lines without a head go on with the message before."""
    body: list[str] | None = None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head is None:
            if body is not None:
                body.append(line)
            continue
        if body is not None:
            yield "\n".join(body)
        body = [] if _PLAN.match(head[1]) else None
    if body is not None:
        yield "\n".join(body)


def _steps(node: Mapping[str, Any]) -> Iterator[Step]:
    loops = node["Actual Loops"]
    removed = [value for name, value in node.items() if name.startswith("Rows Removed by ")]
    yield Step(
        node["Node Type"],
        node.get("Relation Name", ""),
        node.get("Index Name", ""),
        round(node["Actual Rows"] * loops),
        round(sum(removed) * loops),
        node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0),
    )
    for child in node.get("Plans", ()):
        yield from _steps(child)
