"""The bytes on a connection: one request at a time, bounded, in order, or an end."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest

from slimq.core.limits import HEAD_MAX, HEADER_COUNT_MAX, JSON_BODY_MAX, REQUEST_LINE_MAX

ADD = b"POST /add?jobtype=mail HTTP/1.1\r\nHost: localhost\r\n"
ONE = ADD + b"Content-Length: 2\r\n\r\na\n"
SMUGGLED = b"POST /add?jobtype=smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
ECHO = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


def add(*fields: bytes, body: bytes = b"") -> bytes:
    return ADD + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


CORPUS = {
    "CL and TE": add(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nG"),
    "TE and CL": add(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"5c\r\n"),
    "two CL": add(b"Content-Length: 1", b"Content-Length: 2", body=b"aa"),
    "two equal CL": add(b"Content-Length: 1", b"Content-Length: 1", body=b"a"),
    "CL list": add(b"Content-Length: 1, 1", body=b"a"),
    "CL plus": add(b"Content-Length: +1", body=b"a"),
    "CL minus": add(b"Content-Length: -1", body=b"a"),
    "CL hex": add(b"Content-Length: 0x1", body=b"a"),
    "CL underscore": add(b"Content-Length: 1_0", body=b"a" * 10),
    "CL fraction": add(b"Content-Length: 1.0", body=b"a"),
    "CL empty": add(b"Content-Length:", body=b"a"),
    "CL words": add(b"Content-Length: one", body=b"a"),
    "CL other digits": add("Content-Length: \u0661".encode(), body=b"a"),
    "CL overflow": add(b"Content-Length: 18446744073709551617", body=b"a"),
    "CL tab inside": add(b"Content-Length: 1\t0", body=b"a"),
    "TE identity": add(b"Transfer-Encoding: identity", body=b"a"),
    "TE gzip chunked": add(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "TE chunked twice": add(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "two TE": add(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", body=b"0\r\n\r\n"),
    "TE prefix": add(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "TE suffix": add(b"Transfer-Encoding: chunkedx", body=b"0\r\n\r\n"),
    "TE comma": add(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"),
    "TE quoted": add(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "TE vertical tab": add(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "TE space before colon": add(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "TE folded": add(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "TE in HTTP/1.0": add(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0"),
    "bare LF head": ONE.replace(b"\r\n", b"\n"),
    "bare LF line": ADD.replace(b"\r\n", b"\n", 1) + b"Content-Length: 1\r\n\r\na",
    "bare LF field": add(b"X: 1\nContent-Length: 1", body=b"a"),
    "bare CR field": add(b"X: 1\rContent-Length: 1", body=b"a"),
    "LF LF end": ADD + b"Content-Length: 1\n\na",
    "folded field": add(b"X: 1", b" 2", b"Content-Length: 1", body=b"a"),
    "folded first": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "NUL in field": add(b"X: a\x00b", b"Content-Length: 1", body=b"a"),
    "NUL in name": add(b"X\x00: 1", b"Content-Length: 1", body=b"a"),
    "NUL in target": ONE.replace(b"/add", b"/add\x00"),
    "DEL in field": add(b"X: \x7f", b"Content-Length: 1", body=b"a"),
    "space in name": add(b"X Y: 1", b"Content-Length: 1", body=b"a"),
    "empty name": add(b": 1", b"Content-Length: 1", body=b"a"),
    "no colon": add(b"Content-Length 1", body=b"a"),
    "UTF-8 in name": add("X\u00fc: 1".encode(), body=b"a"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no Host in 1.0": b"GET / HTTP/1.0\r\n\r\n",
    "two Host": add(b"Host: localhost", b"Content-Length: 1", body=b"a"),
    "Host list": b"GET / HTTP/1.1\r\nHost: localhost, evil\r\n\r\n",
    "Host with path": b"GET / HTTP/1.1\r\nHost: localhost/evil\r\n\r\n",
    "Host with user": b"GET / HTTP/1.1\r\nHost: evil@localhost\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "lower case version": b"GET / http/1.1\r\nHost: localhost\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tab in line": b"GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "space behind line": b"GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n",
    "space before line": b" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "fragment": b"GET /#x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "authority": b"GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "foreign absolute": b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute with user": b"GET http://a@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk size words": add(b"Transfer-Encoding: chunked", body=b"one\r\na\r\n0\r\n\r\n"),
    "chunk size minus": add(b"Transfer-Encoding: chunked", body=b"-1\r\na\r\n0\r\n\r\n"),
    "chunk size 0x": add(b"Transfer-Encoding: chunked", body=b"0x1\r\na\r\n0\r\n\r\n"),
    "chunk size space": add(b"Transfer-Encoding: chunked", body=b"1 \r\na\r\n0\r\n\r\n"),
    "chunk size overflow": add(b"Transfer-Encoding: chunked", body=b"1" + b"0" * 16 + b"\r\n"),
    "chunk bare LF": add(b"Transfer-Encoding: chunked", body=b"1\na\r\n0\r\n\r\n"),
    "chunk data bare LF": add(b"Transfer-Encoding: chunked", body=b"1\r\na\n0\r\n\r\n"),
    "chunk too short": add(b"Transfer-Encoding: chunked", body=b"2\r\na\r\n0\r\n\r\n"),
    "chunk too long": add(b"Transfer-Encoding: chunked", body=b"1\r\nab\r\n0\r\n\r\n"),
    "chunk extension LF": add(b"Transfer-Encoding: chunked", body=b"1;a\nb\r\na\r\n0\r\n\r\n"),
    "chunk extension long": add(b"Transfer-Encoding: chunked", body=b"1;" + b"a" * 999),
    "trailer malformed": add(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nX Y\r\n\r\n"),
    "trailer bare LF": add(b"Transfer-Encoding: chunked", body=b"0\r\nX: 1\nY: 2\r\n\r\n"),
}


def test_the_corpus_is_long():
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_ambiguous_framing_is_refused_once_and_ends_the_connection(served, name):
    with served.wire() as wire:
        wire.send(CORPUS[name] + b"\r\n\r\n" + SMUGGLED)
        reply = wire.reply()
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["connection"] == "close"
        assert reply.document["detail"]
        assert wire.closed()
    assert not served.journal.records()
    assert not served.app_calls


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * REQUEST_LINE_MAX + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G" * (REQUEST_LINE_MAX * 2),
        add(b"X: " + b"a" * HEAD_MAX),
        ADD + b"X: " + b"a" * HEAD_MAX,
        add(*[b"X: 1"] * HEADER_COUNT_MAX),
    ],
)
def test_a_head_over_the_limits_is_refused_and_ends_the_connection(served, raw):
    with served.wire() as wire:
        wire.send(raw)
        reply = wire.reply()
        assert (reply.status, reply.slug) == (431, "header-too-large")
        assert wire.closed()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\r\n\r\n" + ONE, 202),
        (add(b"Content-Length: 002", body=b"a\n"), 202),
        (add(b"content-LENGTH:2", body=b"a\n"), 202),
        (add(b"Content-Length: \t 2 \t", body=b"a\n"), 202),
        (add(b"Transfer-Encoding: CHUNKED", body=b"2\r\na\n\r\n0\r\n\r\n"), 202),
        (add(b"Transfer-Encoding: chunked", body=b"2;x=y\r\na\n\r\n0;z\r\nT: 1\r\n\r\n"), 202),
        (ONE.replace(b"/add", b"http://LOCALHOST/add"), 202),
        (ONE.replace(b"/add", b"/%61dd"), 202),
        (add(b"Content-Length: 2", b"Upgrade: h2c", b"Connection: Upgrade", body=b"a\n"), 202),
        (add(b"Content-Length: 2", b"Expect: something-else", body=b"a\n"), 202),
        (ONE.replace(b"/add", b"/nowhere"), 404),
        (ONE.replace(b"/add", b"//add"), 404),
        (ONE.replace(b"POST", b"TRACE"), 405),
        (ONE.replace(b"localhost", b"evil.example"), 403),
        (add(b"Content-Length: 2", b"Origin: http://evil.example", body=b"a\n"), 403),
        (add(b"Content-Length: 2", b"Sec-Fetch-Site: cross-site", body=b"a\n"), 403),
        (ECHO + b"Origin: null\r\nContent-Length: 2\r\n\r\na\n", 403),
    ],
)
def test_what_is_legal_is_answered_by_its_meaning(served, raw, status):
    with served.wire() as wire:
        wire.send(raw)
        assert wire.reply().status == status
    assert len(served.journal.records()) == (status == 202)


def test_a_request_may_arrive_byte_by_byte(served):
    with served.wire() as wire:
        for raw in (
            ONE,
            add(b"Transfer-Encoding: chunked", body=b"2\r\na\n\r\n0\r\n\r\n"),
            ECHO + b"Content-Length: 1\r\n\r\nx",
        ):
            for byte in raw:
                wire.send(bytes([byte]))
            assert wire.reply().status in (200, 202)
    assert [lines for _, lines in served.journal.records()] == [[b"a"], [b"a"]]


def test_pipelined_requests_are_answered_in_order(served):
    raw = b""
    for index in range(100):
        body = b"%d\n" % index
        if index % 3 == 0:
            raw += b"POST /echo?%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
                index,
                len(body) + index,
                body + b"x" * index,
            )
        elif index % 3 == 1:
            raw += add(b"Content-Length: %d" % len(body), body=body)
        else:
            raw += add(b"Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (3, body))
    raw = raw.replace(b"3\r\n2\n\r\n", b"2\r\n2\n\r\n").replace(b"3\r\n5\n\r\n", b"2\r\n5\n\r\n")
    raw = raw.replace(b"3\r\n8\n\r\n", b"2\r\n8\n\r\n")
    with served.wire() as wire:
        wire.send(raw)
        for index in range(100):
            reply = wire.reply()
            if index % 3 == 0:
                assert reply.document["size"] == len(b"%d\n" % index) + index
            else:
                assert reply.status == 202
    accepted = [lines[0] for _, lines in served.journal.records()]
    assert accepted == [b"%d" % index for index in range(100) if index % 3]


def test_while_a_request_runs_what_is_pipelined_behind_it_waits(served):
    served.journal.hold()
    with served.wire() as wire:
        wire.send(ONE + ECHO + b"Content-Length: 1\r\n\r\nx" + ONE)
        assert wire.silent()
        assert not served.app_calls
        served.journal.release()
        assert [wire.reply().status for _ in range(3)] == [202, 200, 202]


def test_a_caller_that_pipelines_without_reading_is_held_back(served):
    """Its answers must not pile up here without bound: then it cannot send on."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        caller.connect(("127.0.0.1", served.port))
        caller.settimeout(0.5)
        left = memoryview(ONE * ((16 << 20) // len(ONE)))
        with suppress(TimeoutError):
            while left:
                left = left[caller.send(left) :]
    assert left


def test_the_app_is_called_only_with_complete_requests(served):
    with served.wire() as wire:
        wire.send(ECHO + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        assert wire.silent()
        assert not served.app_calls
        wire.send(b"0\r\n\r\n")
        assert wire.reply().document["size"] == 3
    (call,) = served.app_calls
    assert call[2] == b"abc"
    assert call[3]["content-length"] == "3"
    assert "transfer-encoding" not in call[3]


def test_a_body_for_the_app_is_bounded(served):
    for raw in (
        ECHO + b"Content-Length: %d\r\n\r\n" % (JSON_BODY_MAX + 1),
        ECHO
        + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (JSON_BODY_MAX + 1)
        + b"a" * (JSON_BODY_MAX + 1),
    ):
        with served.wire() as wire:
            wire.send(raw)
            reply = wire.reply()
            assert (reply.status, reply.slug) == (413, "body-too-large")
            assert wire.closed()
    with served.wire() as wire:
        assert wire.request("/echo", b"a" * JSON_BODY_MAX).document["size"] == JSON_BODY_MAX


def test_a_refused_upload_is_read_on_for_a_while_so_that_its_answer_arrives(serve):
    served = serve(body_max=1000)
    with served.wire() as wire:
        wire.send(add(b"Content-Length: 10000000", body=b"a" * 10_000_000))
        assert wire.reply().status == 413
        assert wire.closed()


def test_expect_100_is_answered_before_the_body_and_only_if_it_is_wanted(served):
    for target in (b"/add?jobtype=a", b"/echo"):
        head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" % target
        with served.wire() as wire:
            wire.send(head + b"Content-Length: 2\r\n\r\n")
            assert wire.reply().status == 100
            wire.send(b"a\n")
            assert wire.reply().status in (200, 202)
            wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            assert wire.reply().status == 100
            wire.send(b"1\r\na\r\n0\r\n\r\n")
            assert wire.reply().status in (200, 202)
            wire.send(head + b"Content-Length: 999999999999\r\n\r\n")
            assert wire.reply().status == 413


def test_a_caller_of_http_1_0_is_answered_and_its_connection_ends(served):
    for raw in (ONE, ECHO + b"Content-Length: 1\r\n\r\nx"):
        with served.wire() as wire:
            wire.send(raw.replace(b"HTTP/1.1", b"HTTP/1.0"))
            reply = wire.reply()
            assert reply.status in (200, 202)
            assert reply.headers["connection"] == "close"
            assert wire.closed()


def test_connection_close_is_honoured(served):
    for target in ("/add?jobtype=a", "/echo"):
        with served.wire() as wire:
            reply = wire.request(target, b"x", "Connection: close")
            assert reply.headers["connection"] == "close"
            assert wire.closed()


def test_a_caller_that_closes_its_half_still_gets_its_answer(served):
    served.journal.hold()
    with served.wire() as wire:
        wire.send(ONE + ONE)
        wire.socket.shutdown(1)
        assert wire.silent()
        served.journal.release()
        assert [wire.reply().status for _ in range(2)] == [202, 202]
        assert wire.closed()


def test_head_requests_have_no_body(served):
    with served.wire() as wire:
        reply = wire.request("/echo", method="HEAD")
        assert reply.status == 200
        assert wire.request("/echo", b"x").status == 200


def test_a_caller_that_leaves_while_the_app_answers_disturbs_nobody(served):
    for target in ("/gated", "/large"):
        with served.wire() as wire:
            wire.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wire.silent(0.05)
    served.call(served.app_gate.set)
    with served.wire() as wire:
        assert wire.request("/gated", method="GET").document == {"opened": True}


def test_answers_say_neither_server_nor_date(served):
    with served.wire() as wire:
        for target in ("/add?jobtype=a", "/echo", "/nowhere"):
            reply = wire.request(target, b"x")
            assert reply.headers.keys().isdisjoint({"server", "date", "x-powered-by"})
