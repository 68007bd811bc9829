"""Looking at a journal folder from outside: beside a running node, or without one.

Nothing here writes, and nothing takes the lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from slimq.core.jobid import block_from
from slimq.errors import FolderUnusable
from slimq.journal.index import PendingIndex
from slimq.journal.quarantine import Quarantine
from slimq.journal.record import Header, Position
from slimq.journal.scan import Damage, Record, SegmentScan
from slimq.journal.segments import Segment, find_segments
from slimq.system.disk import Disk


class SegmentInfo(msgspec.Struct, kw_only=True):
    """What is in a segment. `bytes` is the length that counts. `damaged` counts pieces of
    damage, `damaged_bytes` their bytes. `tail_bytes` (last segment only) are bytes behind
    the last record that are no record: being written now, or torn."""

    number: int
    name: str
    bytes: int
    written_at: int  # ms
    records: int = 0
    jobs: int = 0
    first_id: str = ""
    last_id: str = ""
    damaged: int = 0
    damaged_bytes: int = 0
    tail_bytes: int = 0


class FolderView:
    """A journal folder at rest, or beside its node, up to what is written now. It is a
    JournalView that only looks."""

    def __init__(self, disk: Disk, folder: int) -> None:
        self.disk = disk
        self.folder = folder
        self.quarantine: Quarantine | None = None
        self.index = PendingIndex()
        self.unsynced: Sequence[Header] = ()
        self.segments = tuple(find_segments(disk, folder).segments)
        last = self.segments[-1:]
        self.end = Position(last[0].number, last[0].end or 0) if last else Position()


@contextmanager
def folder_view(path: Path, disk: Disk) -> Iterator[FolderView]:
    """Open a folder to look at it. Raises FolderUnusable."""
    try:
        folder = disk.open_folder(path)
        try:
            yield FolderView(disk, folder)
        finally:
            disk.close(folder)
    except OSError as error:
        raise FolderUnusable(f"{path} cannot be read: {error.strerror}") from error


def list_segments(path: Path, disk: Disk) -> list[SegmentInfo]:
    """Return the segments of a journal folder, oldest first, without their contents:
    `records`, `jobs`, `last_id` and damage are not counted. Raises FolderUnusable."""
    with folder_view(path, disk) as view:
        return [_info(view, segment) for segment in view.segments]


def check_folder(path: Path, disk: Disk) -> list[SegmentInfo]:
    """Read every record of a journal folder and compare its checksum; return what is in
    each segment, oldest first. Raises FolderUnusable."""
    with folder_view(path, disk) as view:
        return [_check(view, segment) for segment in view.segments]


def _plain(segment: Segment) -> SegmentInfo:
    return SegmentInfo(
        number=segment.number,
        name=segment.name,
        bytes=segment.end or 0,
        written_at=segment.written_at,
    )


def _info(view: FolderView, segment: Segment) -> SegmentInfo:
    info = _plain(segment)
    for item in _items(view, segment):
        if not isinstance(item, Damage):
            info.first_id = item.frame.header.id
            break
    return info


def _check(view: FolderView, segment: Segment) -> SegmentInfo:
    info = _plain(segment)
    for item in _items(view, segment):
        if isinstance(item, Damage):
            _add_damage(info, item, last=segment is view.segments[-1])
        else:
            _add_record(info, item.frame.header)
    return info


def _items(view: FolderView, segment: Segment) -> Iterator[Record | Damage]:
    file = view.disk.open(view.folder, segment.name)
    try:
        yield from SegmentScan(view.disk, file, segment.nonce, segment.end or 0).items(0)
    finally:
        view.disk.close(file)


def _add_damage(info: SegmentInfo, damage: Damage, *, last: bool) -> None:
    if last and damage.record and damage.end == info.bytes:
        info.tail_bytes = damage.end - damage.start
    else:
        info.damaged += 1
        info.damaged_bytes += damage.end - damage.start


def _add_record(info: SegmentInfo, header: Header) -> None:
    info.records += 1
    info.jobs += header.count
    info.first_id = info.first_id or header.id
    info.last_id = block_from(header.id, header.count).last if header.count else header.id
