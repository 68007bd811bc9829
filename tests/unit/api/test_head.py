from __future__ import annotations

import pytest

from slimq.api.head import CHUNKED, HeadReader, accept_of, check_unfinished
from slimq.core.limits import HEAD_MAX, HEADER_COUNT_MAX, REQUEST_LINE_MAX
from slimq.errors import CallerError, Forbidden, HeaderTooLarge, SlimqError, WrongMethod


def head_of(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET / HTTP/1.1", b"Host: localhost", *lines)) + b"\r\n\r\n"


def refusal_of(raw: bytes) -> SlimqError:
    with pytest.raises(SlimqError) as caught:
        HeadReader().read(raw)
    return caught.value


def test_a_head_is_read_into_its_parts():
    raw = (
        b"POST /add?jobtype=mail HTTP/1.1\r\nHost: localhost:4488\r\nContent-Length: 5\r\n"
        b"Accept: text/plain\r\nX-Odd:\t two  words \t\r\n\r\n"
    )
    head = HeadReader().read(raw)
    assert (head.method, head.path, head.query) == ("POST", b"/add", b"jobtype=mail")
    assert (head.length, head.accept, head.keep_alive) == (5, "text/plain", True)
    assert head.fields[b"x-odd"] == b"two  words"


def test_the_same_head_is_read_once():
    reader = HeadReader()
    assert reader.read(head_of(b"X: 1")) is reader.read(head_of(b"X: 1"))


@pytest.mark.parametrize("field", [b"Idempotency-Key: k", b"traceparent: 00", b"Authorization: x"])
def test_heads_that_never_come_again_or_hold_secrets_are_not_remembered(field: bytes):
    reader = HeadReader()
    assert reader.read(head_of(field)) is not reader.read(head_of(field))


def test_a_refused_head_is_refused_every_time():
    reader = HeadReader()
    for _ in range(2):
        with pytest.raises(Forbidden):
            reader.read(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"GET / HTTP/1.1\nHost: localhost\r\n\r\n", "bare"),
        (b"GET / HTTP/1.1\r\nHost: localhost\nX: 1\r\n\r\n", "bare"),
        (b"GET / HTTP/1.1\r\nHost: localhost\rX: 1\r\n\r\n", "bare"),
        (b"GET /\rx HTTP/1.1\r\nHost: localhost\r\n\r\n", "bare"),
        (head_of(b"X: 1", b" folded"), "folded"),
        (head_of(b"X: 1", b"\tfolded"), "folded"),
        (head_of(b" X: 1"), "folded"),
        (head_of(b"X : 1"), "colon"),
        (head_of(b"X\t: 1"), "colon"),
        (head_of(b"Transfer-Encoding : chunked"), "colon"),
        (head_of(b"X: a\x00b"), "control"),
        (head_of(b"X: a\x0bb"), "control"),
        (head_of(b"X: a\x7fb"), "control"),
        (head_of(b"X\x00: 1"), "control"),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", "control"),
        (head_of(b": 1"), "token"),
        (head_of(b"no colon"), "token"),
        (head_of(b"X(y): 1"), "token"),
        (head_of("Ü: 1".encode()), "token"),
        (b"GET / HTTP/1.1\r\n\r\n", "Host"),
        (b"GET / HTTP/1.0\r\n\r\n", "Host"),
        (head_of(b"Host: localhost"), "repeated"),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: user@localhost\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n", "Host"),
        (b"GET / HTTP/1.1\r\nHost: localhost, localhost\r\n\r\n", "Host"),
        (head_of(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "exclude"),
        (head_of(b"Content-Length: 5", b"Content-Length: 5"), "repeated"),
        (head_of(b"Content-Length: 5", b"content-length: 6"), "repeated"),
        (head_of(b"Content-Length: +5"), "decimal"),
        (head_of(b"Content-Length: -5"), "decimal"),
        (head_of(b"Content-Length: 5,5"), "decimal"),
        (head_of(b"Content-Length: 5, 5"), "decimal"),
        (head_of(b"Content-Length: 0x5"), "decimal"),
        (head_of(b"Content-Length: 5_0"), "decimal"),
        (head_of(b"Content-Length: 5 0"), "decimal"),
        (head_of(b"Content-Length: 5.0"), "decimal"),
        (head_of(b"Content-Length:"), "decimal"),
        (head_of(b"Content-Length: \xb2"), "decimal"),
        (head_of(b"Content-Length: 9999999999999999"), "decimal"),
        (head_of(b"Transfer-Encoding: identity"), "chunked"),
        (head_of(b"Transfer-Encoding: gzip, chunked"), "chunked"),
        (head_of(b"Transfer-Encoding: chunked, chunked"), "chunked"),
        (head_of(b"Transfer-Encoding: xchunked"), "chunked"),
        (head_of(b"Transfer-Encoding: chunked;q=1"), "chunked"),
        (head_of(b"Transfer-Encoding:"), "chunked"),
        (head_of(b"Transfer-Encoding: \x0bchunked"), "control"),
        (head_of(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "repeated"),
        (head_of(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), "repeated"),
        (
            b"POST / HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1",
        ),
        (head_of(b"Idempotency-Key: a", b"Idempotency-Key: b"), "repeated"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n", "HTTP/1.1"),
        (b"GET / http/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1"),
        (b"GET / HTTP/1.10\r\nHost: localhost\r\n\r\n", "HTTP/1.1"),
        (b"GET /\r\nHost: localhost\r\n\r\n", "request line"),
        (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", "request line"),
        (b"GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n", "request line"),
        (b" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "request line"),
        (b"GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "request line"),
        (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", "request line"),
        (b"GE(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", "request line"),
        ("GET /ü HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), "request line"),
        (b"PRI * HTTP/2.0\r\n\r\n", "request line"),
        (b"GET /#x HTTP/1.1\r\nHost: localhost\r\n\r\n", "path"),
        (b"GET add HTTP/1.1\r\nHost: localhost\r\n\r\n", "path"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "path"),
        (b"GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", "path"),
        (b"GET https://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "path"),
        (b"GET http://other/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "differ"),
        (b"GET http://a@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "differ"),
        (b"GET http:///add HTTP/1.1\r\nHost: localhost\r\n\r\n", "differ"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "control"),
    ],
)
def test_what_is_not_plainly_legal_is_refused_and_the_rule_is_named(raw: bytes, word: str):
    error = refusal_of(raw)
    assert (error.status, type(error)) == (400, CallerError)
    assert word in error.detail


@pytest.mark.parametrize("method", [b"TRACE", b"QUERY", b"get", b"CONNECT", b"PROPFIND"])
def test_a_method_that_no_route_knows_is_answered_with_those_that_are(method: bytes):
    error = refusal_of(method + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert isinstance(error, WrongMethod)
    assert "POST" in error.headers["Allow"]


def test_the_bounds_of_a_head_are_exact():
    padding = HEAD_MAX - len(head_of(b"X: "))
    assert HeadReader().read(head_of(b"X: " + b"a" * padding))
    assert isinstance(refusal_of(head_of(b"X: " + b"a" * (padding + 1))), HeaderTooLarge)
    fields = [b"X: 1"] * (HEADER_COUNT_MAX - 1)
    assert HeadReader().read(head_of(*fields))
    assert isinstance(refusal_of(head_of(*fields, b"X: 1")), HeaderTooLarge)
    path = b"/" + b"a" * (REQUEST_LINE_MAX - len(b"GET / HTTP/1.1"))
    line = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert HeadReader().read(line % path)
    assert isinstance(refusal_of(line % (path + b"a")), HeaderTooLarge)


def test_the_absolute_form_is_understood_when_it_agrees_with_host():
    head = HeadReader().read(b"GET HTTP://LocalHost:1/x?y HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
    assert head.target == b"/x?y"
    head = HeadReader().read(b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head.target == b"/"


def test_legal_but_unusual_heads_are_read():
    assert HeadReader().read(head_of(b"Transfer-Encoding: Chunked")).length == CHUNKED
    assert HeadReader().read(head_of(b"Content-Length: 007")).length == 7
    assert HeadReader().read(head_of("X: \u00fc".encode())).fields[b"x"] == "\u00fc".encode()
    assert HeadReader().read(head_of(b"X:", b"Y: a: b")).fields[b"y"] == b"a: b"
    assert HeadReader().read(head_of(b"Expect: 100-Continue")).expects
    assert not HeadReader().read(head_of(b"Connection: Keep-Alive, Close")).keep_alive
    old = HeadReader().read(b"GET / HTTP/1.0\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n")
    assert not old.keep_alive
    assert not old.expects


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:4488", "[::1]", "[::1]:4488"]
)
def test_a_host_that_names_this_machine_is_answered(host: str):
    assert HeadReader().read(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.evil.example",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
        "localhost.",
    ],
)
def test_a_host_that_dns_rebinding_would_send_is_refused(host: str):
    assert isinstance(refusal_of(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()), Forbidden)
    reader = HeadReader(allows_host=lambda name: name == host)
    assert reader.read(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.mark.parametrize(
    "field",
    [
        b"Origin: http://evil.example",
        b"Origin: null",
        b"Origin: http://localhost:9999",
        b"Origin:",
        b"Sec-Fetch-Site: cross-site",
        b"Sec-Fetch-Site: same-site",
        b"Sec-Fetch-Site: anything",
    ],
)
def test_a_call_from_a_foreign_page_is_refused(field: bytes):
    assert isinstance(refusal_of(head_of(field)), Forbidden)


@pytest.mark.parametrize(
    "field",
    [b"Origin: http://localhost", b"Sec-Fetch-Site: none", b"Sec-Fetch-Site: same-origin"],
)
def test_a_call_from_our_own_page_is_answered(field: bytes):
    assert HeadReader().read(head_of(field))


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: localhost\n\n",
        b"GET / HTTP/1.1\rX",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\nX: \x00",
    ],
)
def test_a_hopeless_head_is_refused_before_it_is_complete(start: bytes):
    with pytest.raises(CallerError) as caught:
        check_unfinished(start, 0)
    assert caught.value.status == 400


def test_a_head_that_outgrows_its_bounds_is_refused_before_it_is_complete():
    check_unfinished(b"G" * REQUEST_LINE_MAX, 0)
    with pytest.raises(HeaderTooLarge):
        check_unfinished(b"G" * (REQUEST_LINE_MAX + 3), 0)
    with pytest.raises(HeaderTooLarge):
        check_unfinished(b"GET / HTTP/1.1\r\nX: " + b"a" * HEAD_MAX, 0)


def test_every_beginning_of_a_legal_head_may_go_on():
    raw = head_of(b"X: 1")
    for end in range(len(raw)):
        check_unfinished(raw[:end], max(0, end - 1))


def test_the_app_gets_a_head_that_says_the_length_and_nothing_of_the_way_here():
    head = HeadReader().read(
        head_of(b"Transfer-Encoding: chunked", b"Upgrade: h2c", b"Expect: 100-continue", b"Z: 1")
    )
    assert head.for_app(3) == head_of(b"Z: 1", b"content-length: 3")
    assert HeadReader().read(head_of()).for_app(0) == head_of()


def test_the_accept_header_of_a_malformed_head_is_found():
    assert accept_of(head_of(b"X : 1", b"ACCEPT: text/plain")) == " text/plain"
    assert accept_of(b"\x00") == ""
