"""Reads records in order, up to the acknowledged end, and goes on behind damage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from slimq.core.jobid import block_from, is_id
from slimq.core.lines import split_lines
from slimq.journal.quarantine import keep
from slimq.journal.record import Frame, Header, JobLine, Position
from slimq.journal.segments import Segment, Segments, scan
from slimq.journal.writer import JournalWriter

_DAMAGE_MAX = 64 << 20  # of one damaged place, this much is put aside
_decode_line = msgspec.json.Decoder(JobLine).decode


class EntryBody:
    """The body of a record, read in pieces: it may be larger than memory allows."""

    def __init__(self, path: Path, frame: Frame) -> None:
        self._path = path
        self._start = frame.body_start
        self.length = frame.length

    def lines(self, offset: int, max_lines: int, max_bytes: int) -> tuple[list[bytes], int, bool]:
        """Return up to `max_lines` whole lines from `offset` of the body on, the offset
        behind them, and whether that is the end. At least one line is returned."""
        size = max_bytes
        while True:
            data = self._read(offset, size)
            is_all = offset + len(data) >= self.length
            end = len(data) if is_all else data.rfind(b"\n") + 1
            if end or not data:
                break
            size *= 2  # a line longer than what was read
        lines = split_lines(data[:end])
        if len(lines) <= max_lines:
            return lines, offset + end, is_all
        lines = lines[:max_lines]
        return lines, offset + sum(map(len, lines)) + len(lines), False

    def _read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), min(size, self.length - offset), self._start + offset)


class MemoryBody(EntryBody):
    """The body of a small record: it was read with its neighbours."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def _read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class Entry(NamedTuple):
    header: Header
    start: Position
    next: Position
    body: EntryBody


class JournalReader:
    """Reads beside a writer, also from another thread."""

    def __init__(self, writer: JournalWriter, path: Path) -> None:
        self._writer = writer
        self._path = path
        self._segments: Segments = writer.segments
        self.damaged = 0  # damaged places met since the start

    def read(self, start: Position, max_bytes: int) -> tuple[list[Entry], Position]:
        """Return whole records from `start` on, and where to go on. Position(0, 0) is the
        beginning. At least one record is returned when there is one."""
        end = self._writer.end
        while start < end:
            segment = self._segments.at_or_after(start.segment)
            if segment is None:
                return [], start
            offset = start.offset if segment.number == start.segment else 0
            stop = self._stop(segment, end)
            entries, offset = self._read_segment(segment, offset, stop, max_bytes)
            start = Position(segment.number, offset)
            if offset >= stop and segment.number < end.segment:
                start = Position(segment.number + 1, 0)
            if entries:
                return entries, start
        return [], start

    def headers(self, start: Position) -> Iterator[Entry]:
        """Yield all records from `start` on."""
        while True:
            entries, following = self.read(start, 1 << 20)
            if following == start and not entries:
                return
            yield from entries
            start = following

    def find(self, id: str, after: Position) -> Header | None:
        """Return the record that a job is in, when that stands at or after a position."""
        if after >= self._writer.end or not is_id(id):
            return None
        return next((e.header for e in self.headers(after) if _holds(e, id)), None)

    def _stop(self, segment: Segment, end: Position) -> int:
        if segment.number == end.segment:
            return end.offset
        return segment.end if segment.end >= 0 else (self._path / segment.name).stat().st_size

    def _read_segment(
        self, segment: Segment, offset: int, stop: int, max_bytes: int
    ) -> tuple[list[Entry], int]:
        path = self._path / segment.name
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        entries: list[Entry] = []
        try:
            begin = offset
            for found in scan(file, segment, offset, stop):
                offset = found.end
                if found.frame is None:
                    self._put_aside(file, segment, found.start, found.end)
                else:
                    entries.append(self._entry(file, path, segment, found.start, found.frame))
                if offset - begin >= max_bytes:
                    break
        finally:
            os.close(file)
        return entries, max(offset, stop) if not entries and offset >= stop else offset

    def _entry(self, file: int, path: Path, segment: Segment, start: int, frame: Frame) -> Entry:
        if frame.length <= 1 << 20:
            body: EntryBody = MemoryBody(os.pread(file, frame.length, frame.body_start))
        else:
            body = EntryBody(path, frame)
        number = segment.number
        return Entry(frame.header, Position(number, start), Position(number, frame.end), body)

    def _put_aside(self, file: int, segment: Segment, start: int, end: int) -> None:
        data = os.pread(file, min(end - start, _DAMAGE_MAX), start)
        if keep(self._path, segment.number, start, data):
            self.damaged += 1


def _holds(entry: Entry, id: str) -> bool:
    header = entry.header
    if block_from(header.id, header.count).index(id) is not None:
        return True
    if header.kind != "jobs":
        return False
    lines, _, _ = entry.body.lines(0, header.count, max(entry.body.length, 1))
    return any(_decode_line(line).id == id for line in lines)
