"""Reading the journal: what the ingester stores, and where a job is that is not there yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from slimq.core.jobid import block_from, is_id
from slimq.journal.entry_body import EntryBody
from slimq.journal.failure import journal_error
from slimq.journal.index import Noted
from slimq.journal.record import Header, JobLine, Position
from slimq.journal.scan import BLOCK, Damage, Record, SegmentScan
from slimq.journal.segments import JournalView, Segment

_decode_line = msgspec.json.Decoder(JobLine).decode
_FIND_LINES = 1000
_NOTE_RECORDS = 1000


class Entry(msgspec.Struct, gc=False):
    """A record as it is read: `next` is the position to go on from behind it."""

    header: Header
    start: Position
    next: Position
    body: EntryBody


class Stretch(NamedTuple):
    """A part of a segment to read, from `start` up to `end`."""

    segment: Segment
    start: int
    end: int


class JournalReader:
    """Reads a journal up to its durable end. Has no state: any thread may use it.

    Every method raises JournalFailed when the disk cannot be read, or damage cannot be
    put aside; nothing is passed over then.
    """

    def __init__(self, view: JournalView) -> None:
        self._view = view

    def read(
        self, start: Position, max_bytes: int, max_entries: int = sys.maxsize
    ) -> tuple[list[Entry], Position]:
        """Return entries in order from `start` on, and the position to go on from.

        Stops behind the entry with which `max_bytes` or `max_entries` is reached.
        Position(0, 0) is the start of the oldest segment. Damage goes to the quarantine and
        is stepped over. An entry's body has been compared with its checksum.
        """
        end = self._view.end
        entries: list[Entry] = []
        position = start
        for stretch in self._stretches(start, end):
            found, position = self._read_stretch(stretch, max_bytes, max_entries - len(entries))
            entries += found
            max_bytes -= position.offset - stretch.start
            if max_bytes <= 0 or len(entries) >= max_entries:
                break
        return entries, position

    def headers(self, start: Position) -> Iterator[Header]:
        """Yield the headers of all records from `start` on, and index them for `find`."""
        for segment, offset, limit in self._stretches(start, self._view.end):
            yield from self._note(segment, offset, limit)

    def find(self, id: str, after: Position) -> Header | None:
        """Return the header of the record at or after `after` that holds the job `id`.

        Also finds what is acknowledged as buffered and not yet durable, by its block of
        ids. Costs a read of at most 64 KiB and one longer record when `id` is in the
        index, and a search of all records of the kind "jobs" otherwise.
        """
        if not is_id(id):
            return None
        for header in self._view.unsynced:
            if _in_block(header, id):
                return header
        likely: list[Stretch] = []
        unlikely: list[Stretch] = []
        for segment, offset, limit in self._stretches(after, self._view.end):
            if not self._view.index.covers(segment.number, offset, limit):
                for _ in self._note(segment, offset, limit):
                    pass
            for low, high, only_jobs in self._view.index.candidates(id, segment.number, offset):
                found = Stretch(segment, max(low, offset), high)
                (unlikely if only_jobs else likely).append(found)
        return self._search(likely, id) or self._search(unlikely, id)

    def _stretches(self, start: Position, end: Position) -> Iterator[Stretch]:
        """Yield the segments from `start` to `end`, each with the offsets to read between."""
        for segment in self._view.segments:
            if start.segment <= segment.number <= end.segment:
                offset = start.offset if segment.number == start.segment else 0
                limit = end.offset if segment.number == end.segment else segment.end
                if limit is not None and offset < limit:
                    yield Stretch(segment, offset, limit)

    def _read_stretch(
        self, stretch: Stretch, max_bytes: int, max_entries: int
    ) -> tuple[list[Entry], Position]:
        segment, offset, limit = stretch
        number = segment.number
        block = min(BLOCK, max(max_bytes, 1))
        position, stop = Position(number, offset), offset + max_bytes
        entries: list[Entry] = []
        for record in self._records(segment, offset, limit, block):
            behind = Position(number, record.next)
            if record.start != position.offset:
                position = Position(number, record.start)
            body = EntryBody(self._view, segment, record)
            entries.append(Entry(record.frame.header, position, behind, body))
            position = behind
            if record.next >= stop or len(entries) == max_entries:
                return entries, position
        return entries, Position(number, limit)

    def _records(self, segment: Segment, offset: int, limit: int, block: int) -> Iterator[Record]:
        """Yield the intact records of a segment; put damage aside."""
        view = self._view
        try:
            file = view.disk.open(view.folder, segment.name)
            try:
                for item in SegmentScan(view.disk, file, segment.nonce, limit, block).items(offset):
                    if not isinstance(item, Damage):
                        yield item
                    elif view.quarantine is not None:
                        view.quarantine.keep(file, segment.name, item.start, item.end)
            finally:
                view.disk.close(file)
        except OSError as error:
            raise journal_error(error, f"the journal segment {segment.name} fails") from error

    def _note(self, segment: Segment, offset: int, limit: int) -> Iterator[Header]:
        index = self._view.index
        index.begin(segment.number, offset)
        noted: list[Noted] = []
        for record in self._records(segment, offset, limit, BLOCK):
            start = Position(segment.number, record.start)
            noted.append((record.frame.header, start, Position(segment.number, record.next)))
            if len(noted) >= _NOTE_RECORDS:
                index.note(noted)
                noted.clear()
            yield record.frame.header
        index.note(noted)
        index.reach(segment.number, limit)

    def _search(self, stretches: list[Stretch], id: str) -> Header | None:
        for segment, low, high in stretches:
            for record in self._records(segment, low, high, high - low):
                header = record.frame.header
                if _in_block(header, id) or (
                    header.kind == "jobs" and _in_lines(EntryBody(self._view, segment, record), id)
                ):
                    return header
        return None


def _in_block(header: Header, id: str) -> bool:
    if header.count == 0 or header.id > id or header.id[8:16] != id[8:16]:
        return False
    return header.id == id or block_from(header.id, header.count).index(id) is not None


def _in_lines(body: EntryBody, id: str) -> bool:
    """Return whether a line of a record of the kind "jobs" names its id itself, as `id`."""
    text = id.encode()
    offset, at_end = 0, False
    while not at_end:
        lines, offset, at_end = body.lines(offset, _FIND_LINES, BLOCK)
        if any(text in line and _decode_line(line).id == id for line in lines):
            return True
    return False
