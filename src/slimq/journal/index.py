"""Which ids lie where, sparsely: so that a job can be found between its 202 and the store.

One bucket for each 64 KiB of journal holds the lowest and the highest id in it: about 400
bytes of memory, 0.6 % of what waits to be ingested. What a bucket says is "maybe here".
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from slimq.core.jobid import block_from
from slimq.journal.record import Header, Position

BUCKET_BYTES = 64 * 1024


class Bucket:
    """The records of [start, end) in one segment: ids within [low, high]; `jobs` says
    that some are of the kind "jobs", whose lines may hold any other id."""

    __slots__ = ("end", "high", "jobs", "low", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.low = "~" * 21
        self.high = ""
        self.jobs = False

    def note(self, header: Header, end: int) -> None:
        last = header.id if header.count == 1 else block_from(header.id, header.count).last
        if header.id < self.low:
            self.low = header.id
        if last > self.high:
            self.high = last
        if header.kind == "jobs":
            self.jobs = True
        self.end = end


Noted = tuple[Header, Position, Position]  # a record: its header, start and end


class _Covered:
    """The records of [start, end) in one segment, in buckets."""

    __slots__ = ("buckets", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.buckets: list[Bucket] = []

    def note(self, header: Header, start: int, end: int) -> None:
        if end <= self.end:
            return
        if not self.buckets or start - self.buckets[-1].start >= BUCKET_BYTES:
            self.buckets.append(Bucket(start))
        self.buckets[-1].note(header, end)
        self.end = end


class PendingIndex:
    """The buckets of all segments. Safe to use from several threads."""

    def __init__(self) -> None:
        self._segments: dict[int, _Covered] = {}
        self._lock = threading.Lock()

    def begin(self, segment: int, start: int) -> None:
        """Say that records of a segment will be noted, in order, from `start` on."""
        with self._lock:
            covered = self._segments.get(segment)
            if covered is None or covered.start > start:
                self._segments[segment] = _Covered(start)

    def note(self, records: Iterable[Noted]) -> None:
        """Note records of segments that were begun; those noted before are passed over."""
        with self._lock:
            for header, start, end in records:
                self._segments[start.segment].note(header, start.offset, end.offset)

    def reach(self, segment: int, end: int) -> None:
        """Say that no more records lie before `end`."""
        with self._lock:
            covered = self._segments[segment]
            covered.end = max(covered.end, end)

    def covers(self, segment: int, start: int, end: int) -> bool:
        """Return whether all records of [start, end) of a segment are noted."""
        with self._lock:
            covered = self._segments.get(segment)
            return covered is not None and covered.start <= start and covered.end >= end

    def candidates(self, id: str, segment: int, after: int) -> list[tuple[int, int, bool]]:
        """Return the stretches [start, end) of a segment that may hold `id`, and whether
        it can only be in a line of a record of the kind "jobs"."""
        with self._lock:
            covered = self._segments.get(segment)
            return [
                (bucket.start, bucket.end, not bucket.low <= id <= bucket.high)
                for bucket in (covered.buckets if covered else ())
                if bucket.end > after and (bucket.jobs or bucket.low <= id <= bucket.high)
            ]

    def forget(self, segment: int) -> None:
        with self._lock:
            self._segments.pop(segment, None)
