"""Feeds a parser with what a coverage-guided fuzzer finds: `fuzz_parsers.py NAME -runs=N -seed=S`.

Each parser must return or refuse as documented, whatever it gets; its result must be legal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from zlib import crc32

import atheris

with atheris.instrument_imports(
    include=["slimq.api", "slimq.core", "slimq.journal", "slimq.runner"]
):
    from slimq.api.chunked import ChunkedReader
    from slimq.api.head import HeadReader, check_unfinished
    from slimq.api.options import AddOptionsReader, parse_at
    from slimq.api.problem import prefers_text
    from slimq.core.jobtype import is_name
    from slimq.core.lines import parse_child, parse_reply, parse_result
    from slimq.core.status import is_status
    from slimq.errors import CallerError
    from slimq.journal.record import (
        Header,
        SegmentHead,
        encode_head,
        encode_line,
        parse_head,
        parse_line,
        record_prefix,
    )
    from slimq.journal.scan import Damage, Record, SegmentScan
    from slimq.runner.answer import read_answer
    from slimq.runner.http_answer import AnswerReader
    from slimq.runner.http_verdict import parse_retry_after
from slimq.system.disk import SystemDisk

NONCE = "0123456789abcdef"


class BytesDisk(SystemDisk):
    """Reads from bytes: the file number does not matter."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, file: int, size: int, offset: int) -> bytes:
        return self._data[offset : offset + size]


def journal_record(data: bytes) -> None:
    prefix = record_prefix(NONCE)
    for line in (data, prefix + data, prefix + b"0 " + data):
        parse_head(line, NONCE)
        parse_line(line, prefix, 0)
        parse_line(line + b" %08x" % crc32(line), prefix, 0)


def journal_scan(data: bytes) -> None:
    """Whatever lies between two intact records, both are found, and all bytes are told of."""
    nonce = f"{crc32(data):016x}"
    prefix = record_prefix(nonce)
    head = encode_head(nonce, SegmentHead(journal="j", number=1, at=1))
    first = head + record(prefix, len(head), b"first\n")
    segment = first + data + record(prefix, len(first + data), b"last\n")
    items = list(SegmentScan(BytesDisk(segment), 0, nonce, len(segment), 64).items(0))
    bodies = [item.data for item in items if isinstance(item, Record)]
    assert bodies[0] == b"first\n"
    assert bodies[-1] == b"last\n"
    at = len(head)
    for item in items:
        if isinstance(item, Damage) and not item.record:
            assert (item.start, item.end) == (at - 1, at)
            continue
        assert item.start == at
        at = item.end if isinstance(item, Damage) else item.next
    assert at == len(segment)


def record(prefix: bytes, offset: int, body: bytes) -> bytes:
    line = encode_line(prefix, offset, len(body), crc32(body), Header("0", 1, 1))
    return line + body + b"\n"


def child_line(data: bytes) -> None:
    for line in (data, b"#J:" + data, b"#J: mail|" + data):
        child = parse_child(line)
        assert child is None or is_name(child.jobtype)


def result_lines(data: bytes) -> None:
    parse_result(data)
    for count in (1, 3):
        reply = parse_reply(data, count)
        assert len(reply.results) == len(reply.children) == count
        assert all(line is None or is_status(line.status) for line in reply.results)
        answer = read_answer(data, count, data[:7])
        assert all(is_status(result.status) for result in answer.results)
        assert all(result.error.isprintable() for result in answer.results)


def retry_after(data: bytes) -> None:
    wait = parse_retry_after(data.decode("latin-1"), 1_700_000_000_000)
    assert wait is None or wait >= 0


def http_answer(data: bytes) -> None:
    """In one piece or in two, an answer says the same, and keeps to its bound."""
    for answered in (data, b"HTTP/1.1 200 OK\r\n" + data):
        said = []
        middle = len(answered) // 2
        for pieces in ([answered], [answered[:middle], answered[middle:]]):
            reader = AnswerReader()
            reader.begin(100)
            if not any(reader.feed(piece) for piece in pieces if piece):
                reader.end()
            response = reader.response()
            assert response.code >= 200 or response.error.isprintable()
            assert len(response.body) <= 100
            said.append(response._replace(error=""))
        assert said[0] == said[1]


def query(data: bytes) -> None:
    for written in (data, b"jobtype=mail&" + data):
        with suppress(CallerError):
            client, jobtype = AddOptionsReader().read(written).type.split("/")
            assert is_name(client)
            assert is_name(jobtype)
    with suppress(ValueError):
        parse_at(data.decode("latin-1"))
    prefers_text(data.decode("latin-1"))


def head(data: bytes) -> None:
    for raw in (data, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + data):
        with suppress(CallerError):
            check_unfinished(raw, 0)
        with suppress(CallerError):
            read = HeadReader().read(raw + b"\r\n\r\n")
            assert b"\n" not in read.target
            assert not any(b"\r" in value or b"\n" in value for value in read.fields.values())


def chunks(data: bytes) -> None:
    """In one piece or in two, a body says the same."""
    said = []
    for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
        reader, body = ChunkedReader(), b""
        try:
            for piece in pieces:
                if not reader.done:
                    body += b"".join(reader.feed(piece, 0)[0])
            said.append((reader.done, body))
        except CallerError:
            said.append((None, b""))
    assert said[0] == said[1] or None in (said[0][0], said[1][0])


PARSERS: dict[str, Callable[[bytes], None]] = {
    parser.__name__: parser
    for parser in (
        journal_record,
        journal_scan,
        child_line,
        result_lines,
        retry_after,
        http_answer,
        query,
        head,
        chunks,
    )
}

if __name__ == "__main__":
    name, *words = sys.argv[1:]
    atheris.Setup([sys.argv[0], *words], PARSERS[name])
    atheris.Fuzz()
