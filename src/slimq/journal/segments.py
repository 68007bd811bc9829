"""The segments of one journal folder: which there are, and where each of them ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from slimq.journal.record import (
    HEADER_LINE_MAX,
    MAGIC,
    Frame,
    crc_text,
    parse_header,
    parse_segment_header,
    parse_segment_name,
    segment_name,
)

import zlib  # isort: skip

CHUNK = 1 << 20


class Segment(NamedTuple):
    number: int
    nonce: str
    end: int  # readers stop here; -1: at the end of the file

    @property
    def name(self) -> str:
        return segment_name(self.number, self.nonce)


class Segments:
    """All segments in order. The writer adds, the sweeper removes, readers look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._all: dict[int, Segment] = {}

    def load(self) -> None:
        """Read the folder. A segment ends where its successor says that it did."""
        names = (parse_segment_name(entry.name) for entry in self.folder.iterdir())
        found = sorted(name for name in names if name is not None)
        ends: dict[int, int] = {}
        for number, nonce in found:
            header = parse_segment_header(first_line(self.folder, number, nonce), nonce)
            if header is not None and header.previous_end >= 0:
                ends[number - 1] = header.previous_end
        with self._lock:
            self._all = {n: Segment(n, nonce, ends.get(n, -1)) for n, nonce in found}

    def set(self, segment: Segment) -> None:
        with self._lock:
            self._all[segment.number] = segment

    def remove(self, number: int) -> None:
        with self._lock:
            self._all.pop(number, None)

    def all(self) -> list[Segment]:
        with self._lock:
            return list(self._all.values())

    def at_or_after(self, number: int) -> Segment | None:
        with self._lock:
            return next((s for n, s in self._all.items() if n >= number), None)


def first_line(folder: Path, number: int, nonce: str) -> bytes:
    with (folder / segment_name(number, nonce)).open("rb") as file:
        return file.readline(HEADER_LINE_MAX)


class Found(NamedTuple):
    """A whole record (`frame`), or damage (`frame` is None) from `start` to `end`."""

    start: int
    end: int
    frame: Frame | None


def scan(file: int, segment: Segment, start: int, end: int) -> Iterator[Found]:
    """Yield what stands in a segment between two offsets, checking every checksum.

    Reading goes on behind damage: by length when the header line is whole, else at the
    next whole header line with the nonce of this segment.
    """
    nonce = segment.nonce.encode()
    offset = start
    if offset == 0:
        offset = _skip_segment_header(file, segment, end)
        if offset == 0:
            offset = next_record(file, nonce, 1, end)
            yield Found(0, offset, None)
    while offset < end:
        head = os.pread(file, min(HEADER_LINE_MAX, end - offset), offset)
        frame = parse_header(head, 0, nonce)
        if frame is not None:
            frame = frame._replace(body_start=offset + frame.body_start)
            if frame.end <= end and body_is_whole(file, frame):
                yield Found(offset, frame.end, frame)
                offset = frame.end
                continue
        following = next_record(file, nonce, offset + 1, end)
        if frame is not None and frame.end <= following:
            following = frame.end
        yield Found(offset, following, None)
        offset = following


def body_is_whole(file: int, frame: Frame) -> bool:
    crc = 0
    left, offset = frame.length, frame.body_start
    while left > 0:
        data = os.pread(file, min(left, CHUNK), offset)
        if not data:
            return False
        crc = zlib.crc32(data, crc)
        left -= len(data)
        offset += len(data)
    return os.pread(file, 1, offset) == b"\n" and crc_text(crc) == frame.crc


def next_record(file: int, nonce: bytes, offset: int, end: int) -> int:
    """Return where the next whole header line at or after `offset` starts, or `end`."""
    mark = MAGIC + nonce + b" "
    while offset < end:
        data = os.pread(file, min(CHUNK + HEADER_LINE_MAX, end - offset), offset)
        at = data.find(mark)
        while 0 <= at < CHUNK:
            if parse_header(data, at, nonce) is not None:
                return offset + at
            at = data.find(mark, at + 1)
        offset += CHUNK
    return end


def _skip_segment_header(file: int, segment: Segment, end: int) -> int:
    line = os.pread(file, min(HEADER_LINE_MAX, end), 0)
    line = line[: line.find(b"\n") + 1]
    return len(line) if parse_segment_header(line, segment.nonce) is not None else 0
