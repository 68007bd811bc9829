"""Whatever arrives, the parsers of the HTTP surface answer with a value or a documented error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

from hypothesis import assume, example, given
from hypothesis import strategies as st

from slimq.api.chunked import ChunkedReader
from slimq.api.head import HeadReader, check_unfinished
from slimq.api.options import ADD_PARAMETERS, AddOptionsReader, parse_at, read_parameters
from slimq.api.problem import prefers_text, render
from slimq.core.duration import format_ms
from slimq.core.limits import DELAY_MAX_MS
from slimq.errors import CallerError, SlimqError


def outcome(work: Callable[[], Any]) -> tuple[Any, SlimqError | None]:
    """Return what `work` returns, and the documented error that it raises instead."""
    try:
        return work(), None
    except SlimqError as error:
        return None, error


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(st.binary(max_size=300))
@example(b"a=%")
@example(b"%zz")
@example(b"jobtype=a;client=b")
def test_any_query_is_read_or_refused_as_the_callers_fault(query: bytes):
    options, error = outcome(lambda: AddOptionsReader().read(query))
    if error is None:
        assert options.type.count("/") == 1
    else:
        assert error.status == 400
        assert render(error).body


@given(client=NAMES, jobtype=NAMES, delay=st.integers(0, DELAY_MAX_MS))
def test_what_is_encoded_is_read_back(client: str, jobtype: str, delay: int):
    seconds = delay // 1000 * 1000
    query = urlencode({"client": client, "jobtype": jobtype, "delay": format_ms(seconds)})
    options = AddOptionsReader().read(query.encode())
    assert (options.type, options.when.delay_ms) == (f"{client}/{jobtype}", seconds)


@given(st.lists(st.tuples(st.sampled_from(ADD_PARAMETERS), st.text(max_size=20)), max_size=8))
def test_parameters_are_read_back_or_a_repeated_one_is_refused(pairs: list[tuple[str, str]]):
    query = "&".join(f"{name}={quote_from_bytes(value.encode())}" for name, value in pairs)
    try:
        parameters = read_parameters(query.encode(), ADD_PARAMETERS)
    except CallerError:
        assert len(dict(pairs)) < len(pairs)
    else:
        assert list(parameters.items()) == pairs


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1)),
    st.integers(-23 * 60, 23 * 60),
)
def test_a_time_means_the_same_instant_in_every_zone(moment: datetime, offset_minutes: int):
    zone = timezone(timedelta(minutes=offset_minutes))
    aware = moment.replace(tzinfo=UTC)
    local = aware.astimezone(zone)
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_at(local.isoformat()) == expected
    assert parse_at(local.isoformat(" ").replace("+", " ")) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_value_error(text: str):
    with suppress(ValueError):
        assert parse_at(text) >= 0


@given(st.text(max_size=60))
def test_any_accept_header_is_understood_somehow(accept: str):
    assert prefers_text(accept) in (True, False)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(raw: bytes):
    for head in (raw + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + raw + b"\r\n\r\n"):
        read, error = outcome(lambda head=head: HeadReader().read(head))
        if error is not None:
            assert error.status in (400, 403, 405, 431)
        else:
            assert b"\n" not in read.target
            assert all(b"\r" not in value for value in read.fields.values())


@given(st.binary(max_size=200), st.integers(0, 200))
def test_what_is_refused_unfinished_would_be_refused_finished(raw: bytes, start: int):
    assume(b"\r\n\r\n" not in raw)
    _, early = outcome(lambda: check_unfinished(raw, min(start, len(raw))))
    _, late = outcome(lambda: HeadReader().read(raw + b"\r\n\r\n"))
    assert early is None or late is not None


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.binary(max_size=20),
)
def test_chunks_are_joined_however_they_are_cut(
    chunks: list[bytes], steps: list[int], behind: bytes
):
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    stream, reader, decoded, at, turn = raw + behind, ChunkedReader(), b"", 0, 0
    while not reader.done:
        data = stream[at : at + steps[turn % len(steps)]]
        pieces, used = reader.feed(data, 0)
        decoded += b"".join(pieces)
        at, turn = at + used, turn + 1
    assert (decoded, at) == (b"".join(chunks), len(raw))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_chunks_or_refused(pieces: list[bytes]):
    reader = ChunkedReader()
    for piece in pieces:
        fed, error = outcome(lambda piece=piece: reader.feed(piece, 0))
        if error is not None:
            assert error.status == 400
            return
        assert reader.done or fed[1] == len(piece)
        if reader.done:
            return
