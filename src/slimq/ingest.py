"""Stage 3, ingest: journal to store, exactly once.

The jobs and the cursor move in one transaction. A record larger than one transaction
takes several; the cursor then says how much of it is in. A segment of the journal is
deleted when the cursor is past it, a barrier made the store durable since, and
`journal.retain` is over: a store that falls back to an earlier point is healed from it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import msgspec

from slimq.core.jobid import block_from
from slimq.core.limits import INGEST_JOBS_MAX, MIB
from slimq.journal.reader import Entry, JournalReader
from slimq.journal.record import Header, JobLine, Position
from slimq.journal.writer import JournalWriter
from slimq.store.base import Cursor, CursorMoved, EngineStore, Ingested, NewJobs

READ_BYTES = 4 * MIB  # of the journal, or of one large record, in one step

_decode_line = msgspec.json.Decoder(JobLine).decode


class Ingester:
    """Feeds one store from one journal. Driven by `step`."""

    def __init__(
        self,
        writer: JournalWriter,
        reader: JournalReader,
        store: EngineStore,
        *,
        retain_ms: int,
        forget_keys: Callable[[list[Header]], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._store = store
        self._retain_ms = retain_ms
        self._forget_keys = forget_keys
        self._cursor: Cursor | None = None
        self._entry: Entry | None = None  # the large record that is in the store in part
        self._safe: Position | None = None  # as far as the last barrier reached
        self.position = Position(0, 0)  # all before it is in the store; read by other threads

    @property
    def behind(self) -> bool:
        """Whether the journal holds what is not in the store yet."""
        return self.position < self._writer.end

    @property
    def damaged_pieces(self) -> int:
        """How many damaged pieces of the journal were put aside since the start."""
        quarantine = self._writer.quarantine
        return 0 if quarantine is None else quarantine.pieces

    def pending_bytes(self) -> int:
        """Return how much of the journal is not in the store yet. For any thread."""
        position, end = self.position, self._writer.end
        sealed = sum(
            (segment.end or 0) - (position.offset if segment.number == position.segment else 0)
            for segment in self._writer.segments
            if position.segment <= segment.number < end.segment
        )
        behind = position.offset if position.segment == end.segment else 0
        return sealed + end.offset - behind

    def make_room(self) -> None:
        """The store found no room: give it the journal's reserve, if the disk is the same."""
        self._writer.make_room()

    def start(self) -> None:
        """Take up the cursor that the store has. Raises StoreUnavailable.

        One that is ahead of the journal would let what is accepted from now on pass for
        ingested: a part of the journal is gone, or came back from a backup.
        """
        cursor = self._store.cursor(self._writer.name)
        end = Cursor(*self._writer.found_end)
        if cursor[:2] > end[:2]:
            self._store.ingest(self._writer.name, cursor, end, [])
            cursor = end
        self._set_cursor(cursor)

    def step(self) -> Ingested | None:
        """Move at most INGEST_JOBS_MAX jobs; return what came in, None when nothing waits.

        Raises StoreUnavailable; then nothing was moved, and the next step tries again.
        """
        if self._cursor is None:
            self.start()
        assert self._cursor is not None, "it was just set"
        load = _Load(self._cursor, self._store.now())
        entries, following = self._read(load)
        for entry in entries:
            load.add(entry)
            if load.full:
                self._entry = entry
                break
        else:
            load.pass_to(following)
        if load.cursor == self._cursor:
            return None
        return self._move(load)

    def keep_safe(self) -> bool:
        """Make what is ingested survive a power cut, then delete the segments that are no
        longer needed. Return False when the barrier could not be made now."""
        position = self.position
        if position != self._safe:
            if not self._store.barrier():
                return False
            self._safe = position
        self._writer.sweep(position, self._retain_ms)
        return True

    def is_over(self) -> bool:
        """Whether nothing of the journal is needed any more: all is safely in the store, and
        has been for `journal.retain`. For any thread."""
        is_safe = self._safe == self.position and not self.behind
        return is_safe and self._writer.is_over(self._retain_ms)

    def check_cursor(self) -> None:
        """Notice a store that fell back, or was replaced, also while nothing is accepted.
        Raises StoreUnavailable."""
        if self._cursor is not None:
            cursor = self._store.cursor(self._writer.name)
            if cursor != self._cursor:
                self._fall_back(cursor)

    def _read(self, load: _Load) -> tuple[list[Entry], Position]:
        """Return what to go on with. A record that takes several steps is read and compared
        with its checksum once, not once for each of them."""
        entry, self._entry = self._entry, None
        if entry is not None and load.is_inside(entry):
            return [entry], entry.next
        return self._reader.read(load.position, READ_BYTES, INGEST_JOBS_MAX)

    def _fall_back(self, cursor: Cursor) -> None:
        """What was safe is not."""
        self._safe = None
        self._set_cursor(cursor)

    def _move(self, load: _Load) -> Ingested | None:
        assert self._cursor is not None, "a step sets it"
        try:
            ingested = self._store.ingest(self._writer.name, self._cursor, load.cursor, load.jobs)
        except CursorMoved:  # the store fell back, or was replaced
            self._fall_back(self._store.cursor(self._writer.name))
            return None
        self._set_cursor(load.cursor)
        if load.keyed:
            self._forget_keys(load.keyed)
        return ingested

    def _set_cursor(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.position = Position(cursor.segment, cursor.offset)


_NOTHING = (0, 0)  # of a record: bytes and lines


class _Load:
    """What goes into the store in one transaction, and where the cursor is after it.

    `now` is by the clock of the store, which no step moves. Records are dated by a wall
    clock that may have been set since: one that is ahead must not defer their jobs.
    """

    def __init__(self, cursor: Cursor, now: int) -> None:
        self._now = now
        self.jobs: list[NewJobs] = []
        self.keyed: list[Header] = []
        self.position = Position(cursor.segment, cursor.offset)
        self._inside = (cursor.body_offset, cursor.lines)  # how much of a record is in
        self._count = 0

    @property
    def cursor(self) -> Cursor:
        return Cursor(*self.position, *self._inside)

    @property
    def full(self) -> bool:
        return self._count >= INGEST_JOBS_MAX or self._inside != _NOTHING

    def is_inside(self, entry: Entry) -> bool:
        """Whether a part of this record is in, and the rest comes next."""
        return self._inside != _NOTHING and entry.start == self.position

    def pass_to(self, position: Position) -> None:
        """Step over the end of a segment, or over damage, also in the middle of a record."""
        if position > self.position:
            self.position, self._inside = position, _NOTHING

    def add(self, entry: Entry) -> None:
        """Take as much of a record as fits."""
        offset, first = self._inside if entry.start == self.position else _NOTHING
        lines, offset, is_all = entry.body.lines(offset, INGEST_JOBS_MAX - self._count, READ_BYTES)
        self._count += len(lines)
        header = entry.header
        if header.kind == "jobs":
            self.jobs += _explicit_jobs(header, lines, first, self._ahead(header))
        else:
            self._add_lines(header, lines, first)
        if is_all:
            self.position, self._inside = entry.next, _NOTHING
            if header.key or header.kind == "jobs":
                self.keyed.append(header)
        else:
            self.position, self._inside = entry.start, (offset, first + len(lines))

    def _ahead(self, header: Header) -> int:
        return max(0, header.at - self._now)

    def _add_lines(self, header: Header, lines: list[bytes], first: int) -> None:
        """Small records of one type and time go in together."""
        ids = _ids(header, first, len(lines))
        dt = (header.dt or header.at) - self._ahead(header)
        last = self.jobs[-1] if self.jobs else None
        if last and _goes_with(last, header, dt):
            last.ids += ids
            last.data += lines
            return
        self.jobs.append(
            NewJobs(
                type=header.type,
                dt=dt,
                ids=ids,
                data=lines,
                record=header.id,
                count=header.count,
                key=header.key,
                digest=header.digest,
                trace=header.trace,
            )
        )


def _goes_with(last: NewJobs, header: Header, dt: int) -> bool:
    """Whether the jobs of a record can go in with those of the one before."""
    same = (last.type, last.dt, last.trace) == (header.type, dt, header.trace)
    return same and not (last.key or last.parent or header.key)


def _ids(header: Header, first: int, count: int) -> list[str]:
    if header.count == 1:
        return [header.id][first : first + count]
    return block_from(header.id, header.count).ids(first, first + count)


def _explicit_jobs(header: Header, lines: list[bytes], first: int, ahead: int) -> Iterator[NewJobs]:
    """Yield the jobs of a record whose lines say themselves what they are."""
    ids = _ids(header, first, len(lines))
    for id_, line in zip(ids, map(_decode_line, lines), strict=True):
        data = base64.b64decode(line.data) if line.base64 else line.data.encode()
        own_id = line.id or id_
        yield NewJobs(
            type=line.type,
            dt=(line.dt or header.dt or header.at) - ahead,
            ids=[own_id],
            data=[data],
            record=own_id,
            count=1,
            key=line.key,
            digest=line.digest,
            trace=line.trace or header.trace,
            parent=line.parent,
        )
