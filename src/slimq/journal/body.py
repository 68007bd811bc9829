"""A request body while it arrives: counted and checksummed, in memory or spooled to a file.

Nothing here looks at single lines: a chunk costs one count of its newlines, one search
from each end, and one checksum.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from zlib import crc32

from slimq.core.limits import BODIES_IN_MEMORY_MAX, BODY_IN_MEMORY_MAX, LINE_MAX
from slimq.errors import BodyTooLarge, LineTooLong
from slimq.journal.failure import journal_error
from slimq.system.disk import Disk, read_all, write_all

_SMALL = 4096  # chunks below this are joined, so that a dripping caller costs no memory
_JOINED = 65536
_READ = 1 << 20


class BodyBudget:
    """What all bodies of a node share: the bounds, the folder for spool files, and the
    count of bytes in memory. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        disk: Disk,
        body_max: int,
        line_max: int = LINE_MAX,
        body_in_memory_max: int = BODY_IN_MEMORY_MAX,
        bodies_in_memory_max: int = BODIES_IN_MEMORY_MAX,
    ) -> None:
        self.folder = folder
        self.disk = disk
        self.body_max = body_max
        self.line_max = line_max
        self.body_in_memory_max = body_in_memory_max
        self.bodies_in_memory_max = bodies_in_memory_max
        self.in_memory = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes of memory; return False, and take none, when there are not
        that many left."""
        with self._lock:
            if self.in_memory + size > self.bodies_in_memory_max:
                return False
            self.in_memory += size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self.in_memory -= size


class Body:
    """One body. `feed` its chunks, then `finish`; `discard` it when it will not be written.

    `count` is its number of lines (a last line without newline counts if it is not
    empty), `length` its bytes, `crc` its zlib.crc32. The content is in `pieces`, or in
    the unlinked file `spool`. Used by one thread at a time.
    """

    __slots__ = ("_budget", "_held", "_open_line", "count", "crc", "length", "pieces", "spool")

    def __init__(self, budget: BodyBudget | None) -> None:
        self.count = 0
        self.length = 0
        self.crc = 0
        self.pieces: list[bytes | bytearray] = []
        self.spool: int | None = None
        self._budget = budget
        self._held = 0
        self._open_line = 0

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Return a finished body of bytes that slimq made itself: no bounds apply."""
        body = cls(None)
        body.pieces = [data]
        body.length = len(data)
        body.crc = crc32(data)
        body.count = data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
        return body

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes.

        Raises LineTooLong (`extra["line"]`: its number, from 1), BodyTooLarge, and
        DiskFull or JournalFailed when the body cannot be spooled. Discard it then.
        """
        budget = self._budget
        assert budget is not None, "a body made of bytes is finished"
        length = self.length + len(chunk)
        if length > budget.body_max:
            raise BodyTooLarge(f"a body has at most {budget.body_max} bytes")
        self._count_lines(chunk, budget.line_max)
        self.length = length
        self.crc = crc32(chunk, self.crc)
        if self.spool is None and length <= budget.body_in_memory_max and budget.take(len(chunk)):
            self._held += len(chunk)
            self._hold(chunk)
        else:
            self._spool(chunk, budget)

    def finish(self) -> None:
        """Say that all bytes have been fed."""
        if self._open_line:
            self.count += 1
            self._open_line = 0

    def discard(self) -> None:
        """Free the memory and the spool file. May be called twice."""
        self.pieces = []
        if self._budget is None:
            return
        if self._held:
            self._budget.give_back(self._held)
            self._held = 0
        if self.spool is not None:
            self._budget.disk.close(self.spool)
            self.spool = None

    def digest(self) -> str:
        """Return a hash of the content: blake2b, 16 bytes, in hex. Raises JournalFailed when
        a spooled body cannot be read."""
        digest = hashlib.blake2b(digest_size=16)
        for piece in self.pieces:
            digest.update(piece)
        if self.spool is not None and self._budget is not None:
            try:
                for offset in range(0, self.length, _READ):
                    digest.update(read_all(self._budget.disk, self.spool, _READ, offset))
            except OSError as error:
                raise journal_error(error, "a large body cannot be read") from error
        return digest.hexdigest()

    def _count_lines(self, chunk: bytes, line_max: int) -> None:
        newlines = chunk.count(b"\n")
        if not newlines:
            self._open_line += len(chunk)
        else:
            if self._open_line + chunk.find(b"\n") > line_max:
                raise _too_long(self.count + 1, line_max)
            if len(chunk) > line_max:
                self._find_long_line(chunk, line_max)
            self.count += newlines
            self._open_line = len(chunk) - chunk.rfind(b"\n") - 1
        if self._open_line > line_max:
            raise _too_long(self.count + 1, line_max)

    def _find_long_line(self, chunk: bytes, line_max: int) -> None:
        """Raise LineTooLong for a line inside `chunk`; strides of a whole line suffice."""
        start, last = chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1
        while start < last:
            newline = chunk.rfind(b"\n", start, start + line_max + 1)
            if newline < 0:
                raise _too_long(self.count + chunk.count(b"\n", 0, start) + 1, line_max)
            start = newline + 1

    def _hold(self, chunk: bytes) -> None:
        pieces = self.pieces
        if len(chunk) >= _SMALL or not pieces:
            pieces.append(chunk)
            return
        last = pieces[-1]
        if isinstance(last, bytearray) and len(last) < _JOINED:
            last += chunk
        else:
            pieces.append(bytearray(chunk))

    def _spool(self, chunk: bytes, budget: BodyBudget) -> None:
        try:
            if self.spool is None:
                self.spool = budget.disk.spool(budget.folder)
                write_all(budget.disk, self.spool, self.pieces, 0)
                self.pieces = []
                budget.give_back(self._held)
                self._held = 0
            write_all(budget.disk, self.spool, [chunk], self.length - len(chunk))
        except OSError as error:
            raise journal_error(error, "a large body cannot be spooled") from error


def _too_long(line: int, line_max: int) -> LineTooLong:
    return LineTooLong(
        f"line {line} has more than {line_max} bytes, the most that one job may have",
        extra={"line": line},
    )
