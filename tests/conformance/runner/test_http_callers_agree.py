"""Whatever a target answers, our own caller and libcurl make the same of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runner_kit import CALLERS, Seen, Target, batch_of, make_http_runner, run_once

LINES = [
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 201 Made: it",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 503 Busy",
    b"HTTP/1.1 304 Same",
    b"HTTP/1.1 2000 Much",
    b"HTTP/3.1 200 OK",
    b"nonsense",
]
FIELDS = [
    b"Slimq-Status: 422",
    b"slimq-status:  102\t",
    b"Retry-After: 7",
    b"Retry-After: soon",
    b"Connection: close",
    b"Content-Type: text/plain; charset=utf-8",
    b"X-Latin: \xe9",
    b"Content-Encoding: gzip",
    b"Empty:",
]
BODIES = [b"", b"200 fine", b"x" * 3_000, b"\x00\xff\r\n"]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    interim = b"HTTP/1.1 103 Hints\r\nSlimq-Status: 500\r\n\r\n" * draw(st.integers(0, 2))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=4))
    body = draw(st.sampled_from(BODIES))
    form = draw(st.sampled_from(["length", "too long", "too short", "chunks", "cut chunks", "end"]))
    lengths = {"length": len(body), "too long": len(body) + 1, "too short": len(body) // 2}
    if form in lengths:
        fields.append(b"Content-Length: %d" % lengths[form])
    elif "chunks" in form:
        fields.append(b"Transfer-Encoding: chunked")
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        body = chunked if form == "chunks" else chunked[:-3]
    head = b"\r\n".join([draw(st.sampled_from(LINES)), *fields, b"", b""])
    if draw(st.booleans()):
        return interim + head + body
    return (interim + head)[: draw(st.integers(0, len(interim + head)))]


@contextmanager
def saying(said: bytes) -> Iterator[Target]:
    def behave(wire: socket.socket, _: Seen) -> None:
        wire.sendall(said)

    with Target({"it": behave}).serving() as target:
        yield target


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(answers())
def test_the_callers_agree_about_any_answer(said: bytes) -> None:
    outcomes = []
    for caller in CALLERS:
        with saying(said) as target:
            batch = batch_of("http", target.url("it"), [b"x"], timeout="5s")
            result = run_once(make_http_runner(caller), batch).results[0]
        outcomes.append((result.status, result.text, result.retry_after_ms, bool(result.error)))
    assert outcomes[0] == outcomes[1]
