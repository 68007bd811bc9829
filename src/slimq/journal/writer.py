"""Stage 2, journal: on disk before the answer.

One writer per folder. A group of requests is written with one writev and made durable
with one fdatasync; only then are they acknowledged. The rules that keep that true:

- A new segment is created exclusively and synced, and so is its folder, before anything
  in it is acknowledged. No segment is written again after a restart.
- After a failed write or fsync the segment is never used again: a later fsync could
  succeed although the data is gone. The group goes into a new segment, whose first line
  says where the old one ended; when that fails too, the group is refused, and so is all
  that follows until a probe succeeds.
- A reserve file is given up when the disk is full, so that the store can go on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from slimq.core.limits import RESERVE_BYTES, SEGMENT_BYTES
from slimq.errors import DiskFull, JournalFailed, SlimqError
from slimq.journal.body import Body
from slimq.journal.folder import Folder
from slimq.journal.quarantine import keep
from slimq.journal.record import (
    Header,
    Position,
    SegmentHeader,
    encode_header,
    encode_segment_header,
)
from slimq.journal.segments import Segment, Segments, scan
from slimq.system.chance import Chance
from slimq.system.disk import Buffer, Disk

_IOV_MAX = 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RESERVE = "reserve"
_PROBE = "probe"


class Append:
    """One record to be written. `done` is called with it when it is durable (`sync`), or
    written (not `sync`: durable within BUFFERED_FSYNC_S), or refused (`error`)."""

    __slots__ = ("body", "done", "end", "error", "header", "start", "sync")

    def __init__(
        self, header: Header, body: Body, done: Callable[[Append], None], sync: bool = True
    ) -> None:
        self.header = header
        self.body = body
        self.done = done
        self.sync = sync
        self.error: SlimqError | None = None
        self.start: Position | None = None
        self.end: Position | None = None


class Recovery(NamedTuple):
    """What was found at the start: bytes cut from the torn tail of the last segment."""

    segments: int
    cut_bytes: int


class JournalWriter:
    """Not thread-safe, but for `end`, `refusal` and `sweep`."""

    def __init__(
        self,
        path: Path,
        disk: Disk,
        chance: Chance,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self._path = path
        self._disk = disk
        self._chance = chance
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self.segments = Segments(path)
        self.end = Position(0, 0)  # readers go no further
        self.unsynced = False  # buffered records wait for `sync`
        self._file: int | None = None
        self._nonce = ""
        self._refusal: SlimqError | None = None

    def open(self) -> Recovery:
        """Hold the folder and mend its last segment. Raises FolderHeld, FolderUnusable."""
        self._folder = Folder(self._path, self._chance.token(8))
        self.name = self._folder.name
        self.segments.load()
        cut = self._cut_torn_tail()
        self._make_reserve()
        return Recovery(len(self.segments.all()), cut)

    def refusal(self) -> SlimqError | None:
        """Return why appends are refused now, or None."""
        return self._refusal

    def commit(self, appends: Sequence[Append]) -> None:
        """Write a group; set `error`, or `start` and `end`, of each. Never raises OSError."""
        if self._refusal is None:
            try:
                self._check_free()
                self._write_twice(appends)
            except OSError as error:
                self._refuse(error)
        for append in appends:
            if self._refusal is not None:
                append.error = self._refusal
            append.body.discard()

    def sync(self) -> None:
        """Make durable what buffered appends left."""
        if self._file is None or not self.unsynced:
            return
        self.unsynced = False
        try:
            self._disk.fdatasync(self._file)
        except OSError:
            self._abandon()  # what was written stays readable; nothing follows it

    def probe(self) -> bool:
        """While appends are refused: try the disk; return whether they are taken again."""
        try:
            self._make_reserve()
            self._check_free()
            file = self._disk.create(self._folder.fd, _PROBE)
            try:
                self._disk.writev(file, [bytes(4096)])
                self._disk.fsync(file)
            finally:
                os.close(file)
                self._disk.unlink(self._folder.fd, _PROBE)
        except OSError as error:
            self._refuse(error)
            return False
        self._refusal = None
        return True

    def sweep(self, behind: Position, now_ms: int, retain_ms: int) -> int:
        """Delete segments wholly before `behind` that were last written `retain_ms` ago;
        return how many."""
        count = 0
        for segment in self.segments.all():
            if segment.number >= min(behind.segment, self.end.segment):
                break
            age = now_ms - int((self._path / segment.name).stat().st_mtime * 1000)
            if age < retain_ms:
                break
            self._disk.unlink(self._folder.fd, segment.name)
            self.segments.remove(segment.number)
            count += 1
        return count

    def pending_bytes(self, position: Position) -> int:
        """Return how many bytes stand between `position` and the end."""
        total = 0
        for segment in self.segments.all():
            if segment.number >= position.segment:
                end = self.end.offset if segment.number == self.end.segment else segment.end
                total += max(0, end)
        return max(0, total - position.offset) if total else 0

    def close(self) -> None:
        self.sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._folder.close()

    # --- one group ---------------------------------------------------------

    def _write_twice(self, appends: Sequence[Append]) -> None:
        """Write a group; when that fails, once more into a new segment."""
        try:
            self._write(appends)
        except OSError as error:
            self._abandon()
            if error.errno in _FULL:
                raise
            try:
                self._write(appends)
            except OSError:
                self._abandon()
                raise

    def _write(self, appends: Sequence[Append]) -> None:
        if self._file is None or self.end.offset >= self._segment_bytes:
            self._new_segment()
        assert self._file is not None, "a segment was just opened"
        number, offset = self.end
        nonce = self._nonce.encode()
        out = _Out(self._disk, self._file)
        for append in appends:
            body = append.body
            line = encode_header(nonce, append.header, body.size, body.crc)
            append.start = Position(number, offset)
            offset += len(line) + body.size + 1
            append.end = Position(number, offset)
            out.add(line)
            if body.spool is None:
                out.extend(body.parts())
            else:
                out.copy(body.spool, body.size)
            out.add(b"\n")
        out.flush()
        if any(append.sync for append in appends):
            self._disk.fdatasync(self._file)
            self.unsynced = False
        else:
            self.unsynced = True
        self.end = Position(number, offset)

    def _new_segment(self) -> None:
        """Open the next segment, and make its name durable before anything in it counts."""
        self._retire()
        number = self.end.segment + 1
        nonce = self._chance.token(8).hex()
        segment = Segment(number, nonce, -1)
        file = self._disk.create(self._folder.fd, segment.name)
        try:
            header = SegmentHeader(number, self.end.offset if self.end.segment else -1)
            line = encode_segment_header(nonce, header)
            out = _Out(self._disk, file)
            out.add(line)
            out.flush()
            self._disk.fsync(file)
            self._disk.fsync(self._folder.fd)
        except OSError:
            os.close(file)
            self._disk.unlink(self._folder.fd, segment.name)
            raise
        self._file, self._nonce = file, nonce
        self.segments.set(segment)
        self.end = Position(number, len(line))

    def _retire(self) -> None:
        """Stop writing to the current segment: it ends at what was acknowledged."""
        if self._file is not None:
            self.sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        number, offset = self.end
        if self._nonce and number:
            self.segments.set(Segment(number, self._nonce, offset))

    def _abandon(self) -> None:
        """Never use the current segment again: it was not written as it should have been."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            self._disk.truncate(file, self.end.offset)
        except OSError:
            pass  # the next segment says where this one ends
        os.close(file)
        self.unsynced = False
        self.segments.set(Segment(self.end.segment, self._nonce, self.end.offset))

    # --- refusing ----------------------------------------------------------

    def _refuse(self, error: OSError) -> None:
        if error.errno in _FULL:
            self._give_reserve()
            rule = "the disk is full: free some space; accepting goes on by itself then"
            self._refusal = DiskFull(rule, headers={"Retry-After": "5"})
        else:
            rule = f"the journal cannot be written ({error.strerror}); it is tried each second"
            self._refusal = JournalFailed(rule, headers={"Retry-After": "1"})

    def _check_free(self) -> None:
        if self._disk.free_bytes(self._folder.fd) < self._reserve_bytes:
            raise OSError(errno.ENOSPC, "less space is free than the reserve")

    def _make_reserve(self) -> None:
        if not self._reserve_bytes or (self._path / _RESERVE).exists():
            return
        file = self._disk.create(self._folder.fd, _RESERVE)
        try:
            self._disk.allocate(file, self._reserve_bytes)
            self._disk.fsync(file)
        except OSError:
            self._disk.unlink(self._folder.fd, _RESERVE)
            raise
        finally:
            os.close(file)

    def _give_reserve(self) -> None:
        try:
            self._disk.unlink(self._folder.fd, _RESERVE)
        except OSError:
            pass  # it was given before

    # --- start -------------------------------------------------------------

    def _cut_torn_tail(self) -> int:
        """Cut what a crash left at the end of the last segment; a copy is kept."""
        segments = self.segments.all()
        if not segments:
            return 0
        last = segments[-1]
        path = self._path / last.name
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(file).st_size
            end = size
            for found in scan(file, last, 0, size):
                end = found.start if found.frame is None and found.end == size else size
            if end < size:
                keep(self._path, last.number, end, os.pread(file, size - end, end), "cut")
                os.ftruncate(file, end)
                os.fsync(file)
        finally:
            os.close(file)
        self.end = Position(last.number, end)
        self._nonce = last.nonce
        self.segments.set(last._replace(end=end))
        return size - end


class _Out:
    """Gathers parts and writes them with as few calls as there can be."""

    def __init__(self, disk: Disk, file: int) -> None:
        self._disk = disk
        self._file = file
        self._parts: list[Buffer] = []

    def add(self, part: Buffer) -> None:
        self._parts.append(part)

    def extend(self, parts: Sequence[Buffer]) -> None:
        self._parts += parts

    def copy(self, source: int, size: int) -> None:
        self.flush()
        offset = 0
        while offset < size:
            count = self._disk.copy(source, offset, size - offset, self._file)
            if count <= 0:
                raise OSError(errno.EIO, "a spooled body is shorter than it was")
            offset += count

    def flush(self) -> None:
        parts = self._parts
        self._parts = []
        for start in range(0, len(parts), _IOV_MAX):
            self._write(parts[start : start + _IOV_MAX])

    def _write(self, parts: Sequence[Buffer]) -> None:
        left = sum(map(len, parts))
        count = self._disk.writev(self._file, parts)
        if count == left:
            return
        rest = memoryview(b"".join(parts))[count:]  # a short write: rare
        while rest:
            count = self._disk.writev(self._file, [rest])
            if count <= 0:
                raise OSError(errno.EIO, "nothing was written")
            rest = rest[count:]
