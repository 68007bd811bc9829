"""Whatever is asked, the answer is documented, and never an error of slimq itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import openapi_check as api
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routes_kit import Bench

from slimq.core.handler import OPTION_NAMES

NAMES = sorted({each["name"] for each in api.document()["components"]["parameters"].values()})
OPERATIONS = [each for each in api.operations() if each[1] not in ("/quit", "/stop")]
KNOWN = ["*", "mail", "main", "", "-", "0000000-n0dEsYs1-0000"]
PARTS = st.text(max_size=20) | st.sampled_from(KNOWN)
VALUES = PARTS | st.integers().map(str) | st.sampled_from(["ok", "done", "true", "*/mail"])
QUERIES = st.dictionaries(st.sampled_from(NAMES) | PARTS, VALUES, max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from(["lang", "body", "options", "jobtype", "data", "paused", "weight"])
OPTIONS = st.dictionaries(st.sampled_from(OPTION_NAMES), JSON, max_size=3)
DOCUMENTS = st.dictionaries(MEMBERS, JSON | st.sampled_from(["exec", "http"]) | OPTIONS, max_size=4)
BODIES = st.binary(max_size=50) | (JSON | DOCUMENTS).map(lambda value: json.dumps(value).encode())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.add("main/mail", b"x", b"\xff")
    bench.done("acme/mail")
    yield bench
    bench.close()


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(OPERATIONS), PARTS.filter(bool), QUERIES, BODIES)
def test_whatever_is_asked_is_answered_as_documented(
    bench: Bench, operation: tuple[str, str], name: str, query: dict[str, str], body: bytes
):
    method, path = operation
    part = quote(name, safe="")
    target = path.replace("{id}", part).replace("{jobtype}", part)
    pairs = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
    reply = bench.run(bench.call(method, f"{target}?{pairs}" if pairs else target, body))
    assert reply.status < 500
