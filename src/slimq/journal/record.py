r"""The format of a segment, pure: how records are framed, written and recognised.

A segment is a file ``<number, 8 digits>.<nonce, 16 hex>.journal``, readable with a pager::

    slimq1-segment <nonce> {"number":7,...,"previous":6,"previous_end":81920} <crc>\n
    slimq1 <nonce> <offset> <length> <body crc> {"id":...,"count":2,"at":...} <crc>\n
    first line of the body, as received\n
    second line\n
    \n                                           <- ends the record, after `length` bytes
    slimq1 <nonce> ...

- ``crc`` is zlib.crc32 in 8 lower-case hex digits, compared as text: of the line before
  it, or of the body. Numbers are decimal without leading zeros.
- ``nonce`` is random for each segment and ``offset`` is where the line itself starts, so
  that neither user data nor a block written to the wrong place passes for a record when
  a reader looks for the next one behind damage.
- ``previous_end`` is how many bytes of the segment ``previous`` were acknowledged. What
  lies behind them, and whole segments numbered between the two, was refused: it is never
  read, also when it could not be removed.
- ``durable`` is how much of the segment was durable when the record was written. A disk
  writes in any order: after a power cut a ``buffered`` record may be there, and one before
  it not. Damage that no later record knows as durable may come of that, and then buffered
  records behind it do not count: what was lost of them are the last ones.
"""

from __future__ import annotations

import json
from typing import NamedTuple
from zlib import crc32

import msgspec

RECORD_MAGIC = b"slimq1 "
SEGMENT_MAGIC = b"slimq1-segment "
HEADER_LINE_MAX = 8192  # bytes; a key of 255 characters, each escaped, is 1,530 of them
NONCE_BYTES = 8
_CRC_LENGTH = 9  # a space and 8 digits


class Position(NamedTuple):
    """A place in a journal. Position(0, 0) is the start of its oldest segment."""

    segment: int = 0
    offset: int = 0


class Header(msgspec.Struct, omit_defaults=True, gc=False):
    """What a record says of its body. `kind` "lines": each line of the body is the data of
    one job of `type`, due at `dt`. "jobs": each line is the JSON of a JobLine."""

    id: str  # the first id of the request's block of ids
    count: int  # number of jobs
    at: int  # when it was accepted, ms
    dt: int = 0  # when its jobs are due, ms; 0: at `at`
    type: str = ""
    kind: str = "lines"
    key: str = ""  # Idempotency-Key
    digest: str = ""  # of the body that came with the key
    trace: str = ""  # W3C traceparent
    buffered: bool = False  # acknowledged before it was durable
    durable: int = 0  # bytes of its segment that were durable when it was written


class JobLine(msgspec.Struct, omit_defaults=True):
    """One line of a record of the kind "jobs"."""

    type: str
    data: str = ""
    base64: bool = False  # whether `data` is base64, because it is not UTF-8
    id: str = ""  # '': the id of the header's block with the index of the line
    dt: int = 0  # ms; 0: the record's
    key: str = ""
    digest: str = ""
    parent: str = ""
    trace: str = ""


class SegmentHead(msgspec.Struct, omit_defaults=True):
    """The first line of a segment."""

    journal: str  # name of the journal
    number: int
    at: int  # when it was made, ms
    previous: int = 0  # number of the segment before it; 0: none
    previous_end: int = 0  # its acknowledged length, bytes


class Frame(NamedTuple):
    """A header line, parsed: the body is `length` bytes and has the checksum `crc`."""

    length: int
    crc: bytes
    header: Header


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_head = msgspec.json.Decoder(SegmentHead).decode


def checksum(crc: int) -> bytes:
    """Return a CRC as it is written."""
    return b"%08x" % crc


def record_prefix(nonce: str) -> bytes:
    """Return what every header line of the segment with this nonce starts with."""
    return b"%b%b " % (RECORD_MAGIC, nonce.encode())


def encode_line(prefix: bytes, offset: int, length: int, crc: int, header: Header) -> bytes:
    """Return the header line, newline included, of a record that starts at `offset`."""
    text = _encode(header)
    if not text.isascii():
        text = _to_ascii(header)
    line = b"%b%d %d %08x %b" % (prefix, offset, length, crc, text)
    assert len(line) + _CRC_LENGTH < HEADER_LINE_MAX, "a header line fits into one look"
    return b"%b %08x\n" % (line, crc32(line))


def parse_line(line: bytes, prefix: bytes, offset: int) -> Frame | None:
    """Return what a header line (without newline) at `offset` says, or None if it is none."""
    if not line.startswith(prefix):
        return None
    covered = line[:-_CRC_LENGTH]
    if line[-_CRC_LENGTH:] != b" %08x" % crc32(covered):
        return None
    fields = covered[len(prefix) :].split(b" ", 3)
    if len(fields) != 4 or fields[0] != b"%d" % offset or not fields[1].isdigit():
        return None
    try:
        return Frame(int(fields[1]), fields[2], _decode_header(fields[3]))
    except msgspec.DecodeError:
        return None


def encode_head(nonce: str, head: SegmentHead) -> bytes:
    """Return the first line of a segment, newline included."""
    line = b"%b%b %b" % (SEGMENT_MAGIC, nonce.encode(), _encode(head))
    return b"%b %08x\n" % (line, crc32(line))


def parse_head(line: bytes, nonce: str) -> SegmentHead | None:
    """Return what the first line (without newline) of a segment says, or None."""
    prefix = b"%b%b " % (SEGMENT_MAGIC, nonce.encode())
    covered = line[:-_CRC_LENGTH]
    if not line.startswith(prefix) or line[-_CRC_LENGTH:] != b" %08x" % crc32(covered):
        return None
    try:
        return _decode_head(covered[len(prefix) :])
    except msgspec.DecodeError:
        return None


def _to_ascii(header: Header) -> bytes:
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    return json.dumps(fields, separators=(",", ":")).encode()
