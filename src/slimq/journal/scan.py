"""Reading one segment in order, over whatever damage is in it.

Every intact record is found. Damage ends where the record's length says when its header
line is intact, else where the next valid header line of this segment starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from slimq.journal.record import (
    HEADER_LINE_MAX,
    Frame,
    checksum,
    parse_head,
    parse_line,
    record_prefix,
)
from slimq.system.disk import Disk, read_all

BLOCK = 1 << 20  # bytes read at a time, and the largest body that is kept while scanning


class Record(NamedTuple):
    """An intact record. `data` is its body, or None when that is larger than a block:
    its checksum was compared all the same."""

    start: int
    body: int
    next: int
    frame: Frame
    data: bytes | None


class Damage(NamedTuple):
    """Bytes that are no intact record. Not `record`: only the newline behind one."""

    start: int
    end: int
    record: bool = True


class SegmentScan:
    """Scans the bytes of `file` before `limit`. Raises OSError when it cannot be read."""

    def __init__(self, disk: Disk, file: int, nonce: str, limit: int, block: int = BLOCK) -> None:
        self._disk = disk
        self._file = file
        self._nonce = nonce
        self._prefix = record_prefix(nonce)
        self._limit = limit
        self._block = max(block, 2 * HEADER_LINE_MAX)
        self._base = 0
        self._data = b""

    def items(self, offset: int) -> Iterator[Record | Damage]:
        """Yield what is found from `offset` (0, or where a record starts) on."""
        if offset == 0 and self._limit > 0:
            head = self._head()
            if isinstance(head, Damage):
                yield head
                offset = head.end
            else:
                offset = head
        while offset < self._limit:
            item = self._record(offset)
            if isinstance(item, Damage):
                yield item
                offset = item.end
                continue
            yield item
            offset = item.next
            if self._at(offset - 1, 1) != b"\n":
                yield Damage(offset - 1, offset, record=False)

    def _head(self) -> int | Damage:
        """Return where the first record starts."""
        line, newline, _ = self._at(0, HEADER_LINE_MAX).partition(b"\n")
        if newline and parse_head(line, self._nonce) is not None:
            return len(line) + 1
        return Damage(0, self._next_line(0))

    def _record(self, start: int) -> Record | Damage:
        at = start - self._base
        newline = self._data.find(b"\n", at, at + HEADER_LINE_MAX) if at >= 0 else -1
        if newline < 0:
            self._load(start)
            at = 0
            newline = self._data.find(b"\n", 0, HEADER_LINE_MAX)
        frame = parse_line(self._data[at:newline], self._prefix, start) if newline >= 0 else None
        if frame is None:
            return Damage(start, self._next_line(start + 1))
        body = self._base + newline + 1
        end = body + frame.length
        if end >= self._limit:
            return Damage(start, self._limit)
        if frame.length > self._block:
            data, crc = None, self._stream(body, end)
        else:
            data = self._at(body, frame.length)
            crc = crc32(data)
        if checksum(crc) != frame.crc:
            return Damage(start, end + 1)
        return Record(start, body, end + 1, frame, data)

    def _stream(self, start: int, end: int) -> int:
        """Return the checksum of [start, end) without holding it."""
        crc = 0
        while start < end:
            data = self._disk.pread(self._file, min(BLOCK, end - start), start)
            if not data:
                break
            crc = crc32(data, crc)
            start += len(data)
        return crc

    def _next_line(self, offset: int) -> int:
        """Return where the next valid header line at or after `offset` starts, or the limit."""
        while offset < self._limit:
            data = self._at(offset, self._block)
            found = data.find(self._prefix)
            if found < 0 and len(data) < self._block:
                break  # the limit or the end of the file
            if found < 0:
                offset += len(data) - len(self._prefix) + 1  # it may stand across the blocks
                continue
            offset += found
            line, newline, _ = self._at(offset, HEADER_LINE_MAX).partition(b"\n")
            if newline and parse_line(line, self._prefix, offset) is not None:
                return offset
            offset += 1
        return self._limit

    def _at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer only at the limit or the file's end."""
        size = min(size, self._limit - offset)
        at = offset - self._base
        if at < 0 or at + size > len(self._data):
            self._load(offset, size)
            at = 0
        return self._data[at : at + size]

    def _load(self, offset: int, size: int = 0) -> None:
        size = min(max(self._block, size), self._limit - offset)
        self._data = read_all(self._disk, self._file, size, offset)
        self._base = offset
