"""The segment that is appended to."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.limits import KIB
from slimq.journal.append import Append
from slimq.journal.record import Position, SegmentHead, encode_head, encode_line, record_prefix
from slimq.journal.segments import Segment
from slimq.system.disk import Buffer, Disk, copy_all, write_all

_ZEROS = bytes(64 * KIB)
_JOIN_BYTES = 1 << 20  # many small buffers below this are copied into one: cheaper than iovecs


class SegmentFile:
    """A new segment, open for appending. Every method raises OSError; after that it may
    only be abandoned: what a failed fsync did not write, a second one does not either.

    `written` is how much of it counts, `synced` how much of that is durable. Behind that
    there is `room`: zeros, which are part of no record.
    """

    def __init__(self, disk: Disk, folder: int, nonce: str, head: SegmentHead) -> None:
        self.segment = Segment(head.number, nonce, head)
        self.segment.end = None
        self.written = 0
        self.synced = 0
        self._laid_out = 0
        self._disk = disk
        self._folder = folder
        self._prefix = record_prefix(nonce)
        self._file = disk.create(folder, self.segment.name)
        self._line = encode_head(nonce, head)

    def write(self, appends: Sequence[Append], *, buffered: bool = False) -> int:
        """Write records behind what is there, and set their positions; return their length.
        They are `buffered` when they may be acknowledged before the next sync."""
        number = self.segment.number
        parts: list[Buffer] = [] if self.written else [self._line]
        at = self.written
        offset = self.written or len(self._line)
        for append in appends:
            body = append.body
            append.header.buffered, append.header.durable = buffered, self.synced
            line = encode_line(self._prefix, offset, body.length, body.crc, append.header)
            append.start = Position(number, offset)
            offset += len(line) + body.length + 1
            append.end = Position(number, offset)
            parts.append(line)
            if body.spool is None:
                parts += body.pieces
            else:
                at = self._flush(parts, at)
                at = copy_all(self._disk, body.spool, self._file, body.length, at)
                parts = []
            parts.append(b"\n")
        at = self._flush(parts, at)
        assert at == offset, "a body has the length that it says"
        length, self.written = offset - self.written, offset
        return length

    def sync(self) -> None:
        """Make all that is written durable; the first time, the folder's entry too."""
        if self.synced:
            self._disk.fdatasync(self._file)
        else:
            self._disk.fsync(self._file)
            self._disk.fsync_folder(self._folder)
        self.synced = self.written

    @property
    def room(self) -> int:
        return max(0, self._laid_out - self.written)

    def lay_out(self, size: int) -> None:
        """Make room for `size` more bytes. What is appended there costs no blocks, no
        length and no pages of memory then: only the bytes."""
        at = max(self._laid_out, self.written)
        count, rest = divmod(size, len(_ZEROS))
        self._laid_out = write_all(self._disk, self._file, [*[_ZEROS] * count, _ZEROS[:rest]], at)

    def trim(self) -> None:
        """Give the room back."""
        self._disk.truncate(self._file, self.written)
        self._laid_out = 0

    def cut(self) -> None:
        """Cut what is not durable, or remove the file if nothing is."""
        if self.synced:
            self._disk.truncate(self._file, self.synced)
        else:
            self._disk.unlink(self._folder, self.segment.name)

    def close(self) -> None:
        self._disk.close(self._file)

    def _flush(self, parts: list[Buffer], at: int) -> int:
        if len(parts) > 3 and sum(map(len, parts)) <= _JOIN_BYTES:
            parts = [b"".join(parts)]
        return write_all(self._disk, self._file, parts, at)
