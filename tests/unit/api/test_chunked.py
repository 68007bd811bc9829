from __future__ import annotations

import pytest

from slimq.api.chunked import ChunkedReader
from slimq.core.limits import HEAD_MAX
from slimq.errors import BadBody


def read_all(raw: bytes, step: int) -> tuple[bytes, int, bool]:
    """Return what is decoded, where the body ends, and whether it does."""
    reader, decoded, at = ChunkedReader(), b"", 0
    while at < len(raw) and not reader.done:
        data = raw[at : at + step]
        pieces, used = reader.feed(data, 0)
        decoded += b"".join(pieces)
        at += used
    return decoded, at, reader.done


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", b"0123456789x"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"1;name=value\r\nx\r\n0;last\r\n\r\n", b"x"),
        (b"1\r\nx\r\n0\r\nTrailer: 1\r\nOther: 2\r\n\r\n", b"x"),
    ],
)
def test_a_chunked_body_is_decoded_and_its_end_is_exact(raw: bytes, body: bytes, step: int):
    assert read_all(raw + b"GET / HTTP/1.1", step) == (body, len(raw), True)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_body_may_start_inside_the_buffer_and_end_in_a_later_one(start: int):
    raw = b"5\r\nhello\r\n0\r\n\r\n"
    reader = ChunkedReader()
    pieces, used = reader.feed(b"#" * start + raw[:9], start)
    assert used == start + 9
    rest, used = reader.feed(b"#" * start + raw[9:] + b"next", start)
    assert b"".join(pieces + rest) == b"hello"
    assert (reader.done, used) == (True, start + len(raw) - 9)


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    "raw",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1\nx\r\n",
        b"1\r\nx\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\rz",
        b"1;a\nb\r\nx",
        b"1;\x00\r\nx",
        b"10000000000000000\r\n",
        b"1;" + b"a" * 200,
        b"1" + b"0" * 200,
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n folded: 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n\r\n",
        b"0\r\nX: " + b"a" * HEAD_MAX,
    ],
)
def test_a_chunked_body_that_readers_could_differ_about_is_refused(raw: bytes, step: int):
    with pytest.raises(BadBody):
        read_all(raw, step)


def test_an_unfinished_body_is_not_done():
    raw = b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n"
    for end in range(len(raw)):
        assert read_all(raw[:end], 1)[2] is False
