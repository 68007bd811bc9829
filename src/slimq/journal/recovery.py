"""What is done at start: the torn tail of the last segment is cut, and kept aside. What was only
buffered does not count behind what a power cut took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimq.journal.folder import journal_name, remove_spools
from slimq.journal.quarantine import Quarantine
from slimq.journal.record import Position
from slimq.journal.scan import Damage, SegmentScan
from slimq.journal.segments import Segment, find_segments
from slimq.system.chance import Chance
from slimq.system.disk import Disk, write_all

_STRUCK = b"-"  # instead of the first byte of a header line


class Recovery:
    """What was found at start.

    `cut_bytes` is the torn tail, of which nothing was acknowledged, but as buffered; `quarantined`
    counts the damaged pieces of the last segment. Older segments are checked when they are read:
    all that is not yet ingested is read at start, to know its Idempotency-Keys.
    """

    def __init__(self) -> None:
        self.journal = ""
        self.segments: list[Segment] = []
        self.end = Position()
        self.number = 0  # the highest number in use
        self.records = 0  # intact ones in the last segment
        self.cut_bytes = 0
        self.quarantined = 0

    @property
    def intact(self) -> int:
        """The number of segments without known damage."""
        damaged = {segment for segment in self.segments[-1:] if self.quarantined}
        damaged.update(segment for segment in self.segments if segment.head is None)
        return len(self.segments) - len(damaged)


def recover(disk: Disk, folder: int, quarantine: Quarantine | None, chance: Chance) -> Recovery:
    """Make the folder ready for a writer. Raises OSError."""
    recovery = Recovery()
    remove_spools(disk, folder)
    found = find_segments(disk, folder)
    # Void segments go now: later, the head that declares them void may be swept.
    for segment in found.void:
        disk.unlink(folder, segment.name)
        disk.fsync_folder(folder)
    recovery.number = max((s.number for s in (*found.segments, *found.void)), default=0)
    recovery.segments = found.segments
    while recovery.segments and _drop_if_empty(disk, folder, quarantine, recovery):
        recovery.segments.pop()
    if recovery.segments:
        last = recovery.segments[-1]
        recovery.end = Position(last.number, last.end or 0)
    known = (s.head.journal for s in reversed(recovery.segments) if s.head is not None)
    recovery.journal = journal_name(disk, folder, next(known, ""), chance)
    return recovery


def _drop_if_empty(
    disk: Disk, folder: int, quarantine: Quarantine | None, recovery: Recovery
) -> bool:
    """Cut the last segment; remove it, and return True, when nothing of it is intact.

    Else make it durable: a process that was killed may have left its end in memory only. From
    now on these records are ingested, and answered for to callers who ask again.
    """
    last = recovery.segments[-1]
    file = disk.open(folder, last.name, write=True)
    try:
        found = _scan(disk, file, last)
        if found.orphans:
            _strike_out(disk, file, found.orphans)
            found = _scan(disk, file, last)
        recovery.records += found.records
        start = _torn_from(disk, file, last, found.damages, quarantine, recovery)
        if start is not None:
            _cut(disk, file, last, start, quarantine, recovery)
        elif last.size != last.end:  # room that was laid out
            disk.truncate(file, last.end or 0)
            last.size = last.end or 0
        if last.end:
            disk.fsync(file)
    finally:
        disk.close(file)
    if last.end == 0:
        disk.unlink(folder, last.name)
    disk.fsync_folder(folder)
    return last.end == 0


class _Found(NamedTuple):
    """What a segment holds: how many intact records; `orphans` are where those of them start
    that were buffered, and of which what came before may have been lost at a power cut."""

    records: int
    damages: list[Damage]
    orphans: list[int]


def _scan(disk: Disk, file: int, last: Segment) -> _Found:
    records = durable = 0
    damages: list[Damage] = []
    behind: list[int] = []  # buffered records behind some damage
    for item in SegmentScan(disk, file, last.nonce, last.end or 0).items(0):
        if isinstance(item, Damage):
            damages.append(item)
            continue
        records += 1
        durable = max(durable, item.frame.header.durable)
        if damages and item.frame.header.buffered:
            behind.append(item.start)
    gap = next((damage.start for damage in damages if damage.end > durable), last.end or 0)
    return _Found(records, damages, [start for start in behind if start > gap])


def _strike_out(disk: Disk, file: int, starts: list[int]) -> None:
    """Make damage of records, for whoever reads this segment from now on."""
    for start in starts:
        write_all(disk, file, [_STRUCK], start)


def _torn_from(
    disk: Disk,
    file: int,
    last: Segment,
    damages: Sequence[Damage],
    quarantine: Quarantine | None,
    recovery: Recovery,
) -> int | None:
    """Return where the torn tail of the last segment starts, or None; keep other damage. The
    newline behind an intact record is written again: were it a zero, and the last byte from now
    on, the next start would take it for room."""
    for damage in damages:
        if damage.record and damage.end == last.end:
            return damage.start
        recovery.quarantined += 1
        if quarantine is not None:
            quarantine.keep(file, last.name, damage.start, damage.end)
        if not damage.record:
            write_all(disk, file, [b"\n"], damage.start)
    return None


def _cut(
    disk: Disk,
    file: int,
    last: Segment,
    start: int,
    quarantine: Quarantine | None,
    recovery: Recovery,
) -> None:
    limit = last.end or 0
    if quarantine is not None:
        quarantine.keep_cut(file, last.name, start, limit)
    disk.truncate(file, start)
    last.end = last.size = start
    recovery.cut_bytes += limit - start
