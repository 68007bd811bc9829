"""The segments of a journal folder: which files they are, and how much of each counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from slimq.core.limits import KIB
from slimq.journal.index import PendingIndex
from slimq.journal.quarantine import Quarantine
from slimq.journal.record import HEADER_LINE_MAX, Header, Position, SegmentHead, parse_head
from slimq.system.disk import Disk, read_all

_BLOCK = 64 * KIB
_NAME = re.compile(r"([0-9]{8,})\.([0-9a-f]{16})\.journal", re.ASCII)


class Segment:
    """One file of `size` bytes. `end` is how much of it counts; None while it is appended to.
    `head` is None when the first line is damaged. `written_at` is wall time, ms; `over_at`
    boot time: since when it is known that all of it is stored, None while it is not."""

    __slots__ = ("end", "head", "name", "nonce", "number", "over_at", "size", "written_at")

    def __init__(self, number: int, nonce: str, head: SegmentHead | None = None) -> None:
        self.number = number
        self.nonce = nonce
        self.name = f"{number:08d}.{nonce}.journal"
        self.head = head
        self.end: int | None = None
        self.size = 0
        self.written_at = 0
        self.over_at: int | None = None


class JournalView(Protocol):
    """What a reader needs of a journal: a writer has it, and so has a folder at rest.

    Whoever reads takes `end` before `segments`: the segments before `end` are then sealed.
    """

    @property
    def disk(self) -> Disk: ...

    @property
    def folder(self) -> int:
        """The descriptor of the folder."""

    @property
    def quarantine(self) -> Quarantine | None:
        """Where damage goes; None: this view only looks."""

    @property
    def index(self) -> PendingIndex: ...

    @property
    def end(self) -> Position:
        """Everything before it is durable, nothing behind it may be read."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, oldest first."""

    @property
    def unsynced(self) -> Sequence[Header]:
        """The headers of acknowledged records that are not yet durable, behind `end`."""


class Found:
    """What a folder holds: the `segments` that count, and `void` ones: files of groups
    that were refused and could not be removed."""

    def __init__(self, segments: list[Segment], void: list[Segment]) -> None:
        self.segments = segments
        self.void = void


def note_over(segments: Sequence[Segment], end: Position, behind: Position, now: int) -> None:
    """Note of each segment of a journal up to `end` since when all of it is before `behind`."""
    for segment in segments:
        until = end if segment.end is None else Position(segment.number, segment.end)
        if until > behind:  # also again: the store fell back
            segment.over_at = None
        elif segment.over_at is None:
            segment.over_at = now


def find_segments(disk: Disk, folder: int) -> Found:
    """Look at the segment files of a folder and their first lines. Raises OSError."""
    matches = filter(None, map(_NAME.fullmatch, disk.names(folder)))
    found = sorted((int(match[1]), match[2]) for match in matches)
    segments = []
    for number, nonce in found:
        segment = Segment(number, nonce)
        _look(disk, folder, segment)
        segments.append(segment)
    return _apply_heads(segments)


def _look(disk: Disk, folder: int, segment: Segment) -> None:
    file = disk.open(folder, segment.name)
    try:
        facts = disk.facts(file)
        first = read_all(disk, file, min(HEADER_LINE_MAX, facts.size), 0)
        segment.size, segment.end = facts.size, _written(disk, file, facts.size)
    finally:
        disk.close(file)
    segment.written_at = facts.modified_ms
    line, newline, _ = first.partition(b"\n")
    segment.head = parse_head(line, segment.nonce) if newline else None


def _written(disk: Disk, file: int, size: int) -> int:
    """Return how much of a file is before the room that its writer had laid out, if it was
    killed: zeros, with which no record ends."""
    while size:
        start = max(0, size - _BLOCK)
        written = read_all(disk, file, size - start, start).rstrip(b"\0")
        if written:
            return start + len(written)
        size = start
    return 0


def _apply_heads(segments: list[Segment]) -> Found:
    """Let each segment that counts say, newest first, what counts of those before it."""
    void: list[Segment] = []
    kept: list[Segment] = []
    head: SegmentHead | None = None
    for segment in reversed(segments):
        if head is not None and head.previous < segment.number < head.number:
            void.append(segment)
            continue
        if head is not None and head.previous == segment.number:
            segment.end = head.previous_end
        kept.append(segment)
        head = segment.head
    kept.reverse()
    return Found(kept, void)
