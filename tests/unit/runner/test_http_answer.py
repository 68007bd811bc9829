"""The reader of answers alone: what it keeps of a stream of bytes, however that is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slimq.core.limits import ANSWER_HEAD_MAX
from slimq.runner.caller import Response
from slimq.runner.http_answer import AnswerReader

ANSWER_MAX = 1_000
PIECES = [
    b"HTTP/1.1 ",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\n",
    b"Slimq-Status: 422\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"\r\n",
    b"\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"\x00",
    b"x" * 600,
]
STREAMS = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def read(stream: bytes, cuts: list[int], answer_max: int = ANSWER_MAX) -> tuple[Response, bool]:
    """Return what a connection that brings these bytes, and ends, is answered with, and whether
    it could have been kept."""
    reader = AnswerReader()
    reader.begin(answer_max)
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        if reader.feed(stream[at : at + size]):
            return reader.response(), reader.keep
        at, turn = at + size, turn + 1
    reader.end()
    return reader.response(), reader.keep


@given(STREAMS, CUTS)
@example(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (ANSWER_MAX + 1), [7])
@example(b"H", [1])
def test_any_bytes_are_an_answer_or_an_error_whatever_they_are_cut_into(
    stream: bytes, cuts: list[int]
) -> None:
    response, _ = read(stream, cuts)
    assert 200 <= response.code <= 999 or (response.code == 0 and response.error)
    assert len(response.body) <= ANSWER_MAX
    assert response.error.isprintable()
    whole, _ = read(stream, [max(1, len(stream))])
    if 0 not in (response.code, whole.code):
        assert response == whole


@given(STREAMS, CUTS)
def test_an_answer_is_the_same_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    """But for an error that stands behind the answer: in one piece it is seen as well."""
    pieces, _ = read(stream, cuts)
    whole, _ = read(stream, [max(1, len(stream))])
    assert pieces._replace(error="") == whole._replace(error="")


@given(
    st.integers(200, 599).filter(lambda code: code not in (204, 304)),
    st.binary(max_size=ANSWER_MAX),
    st.sampled_from(["length", "chunks", "end"]),
    CUTS,
)
def test_what_is_answered_is_read_back(code: int, body: bytes, form: str, cuts: list[int]) -> None:
    head = b"HTTP/1.1 %d So\r\nSlimq-Status: a\r\nX: y\r\nSlimq-Status: b\r\n" % code
    if form == "length":
        stream = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    elif form == "chunks":
        sizes = [body[at : at + 7] for at in range(0, len(body), 7)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in sizes)
        stream = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        stream = head + b"\r\n" + body
    assert read(stream, cuts) == (Response(code, body, "a, b"), form != "end")


@given(STREAMS, STREAMS, CUTS)
def test_a_reader_starts_each_answer_anew(first: bytes, second: bytes, cuts: list[int]) -> None:
    """Only after an answer that leaves the connection usable: others end it."""
    reader = AnswerReader()
    reader.begin(ANSWER_MAX)
    whole = first + b"\r\n"
    if not (reader.feed(whole) and reader.done and reader.keep):
        return
    reader.begin(ANSWER_MAX)
    if second:
        reader.feed(second)
        fresh = AnswerReader()
        fresh.begin(ANSWER_MAX)
        fresh.feed(second)
        assert (reader.done, reader.response().body) == (fresh.done, fresh.response().body)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 OK\r\nRetry-After: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
)
def test_what_has_no_end_has_a_bound(start: bytes) -> None:
    reader = AnswerReader()
    reader.begin(ANSWER_MAX)
    assert not reader.feed(start)
    fed = 0
    while not reader.feed(b"y" * 100):
        fed += 100
        assert fed <= ANSWER_HEAD_MAX
    assert reader.response() == Response(
        0, error=f"the headers of the answer are over {ANSWER_HEAD_MAX} bytes"
    )
    assert not reader.keep
