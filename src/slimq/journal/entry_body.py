"""The body of a record that is read: its lines, a slice at a time."""

from __future__ import annotations

from slimq.core.lines import split_lines
from slimq.journal.failure import journal_error
from slimq.journal.scan import Record
from slimq.journal.segments import JournalView, Segment
from slimq.system.disk import read_all


class EntryBody:
    """A body of `length` bytes, in memory when it is small, else left in its segment."""

    __slots__ = ("_data", "_offset", "_segment", "_view", "length")

    def __init__(self, view: JournalView, segment: Segment, record: Record) -> None:
        self.length = record.frame.length
        self._data = record.data
        self._view = view
        self._segment = segment
        self._offset = record.body

    def lines(self, offset: int, max_lines: int, max_bytes: int) -> tuple[list[bytes], int, bool]:
        """Return lines (without newlines) from the body offset `offset` on, the offset to
        go on from, and whether the end is reached.

        At most `max_lines`, and about `max_bytes` of them, but at least one line. Raises
        JournalFailed when the segment cannot be read.
        """
        if offset >= self.length:
            return [], self.length, True
        if self._data is not None and offset == 0 and self.length <= max_bytes:
            lines = split_lines(self._data)
            if len(lines) <= max_lines:  # nearly always: a small record
                return lines, self.length, True
        data = self._slice(offset, max_bytes)
        lines = split_lines(data)
        end = offset + len(data)
        if len(lines) > max_lines:
            lines = lines[:max_lines]
            end = offset + sum(map(len, lines)) + len(lines)
        return lines, end, end >= self.length

    def _slice(self, offset: int, size: int) -> bytes:
        """Return whole lines of about `size` bytes."""
        left = self.length - offset
        while True:
            size = min(size, left)
            data = self._read(offset, size)
            if size == left:
                return data
            newline = data.rfind(b"\n")
            if newline >= 0:
                return data[: newline + 1]
            size = max(2 * size, 4096)  # one line is longer than that

    def _read(self, offset: int, size: int) -> bytes:
        if self._data is not None:
            whole = size == self.length
            return self._data if whole else self._data[offset : offset + size]
        view, segment = self._view, self._segment
        try:
            file = view.disk.open(view.folder, segment.name)
            try:
                data = read_all(view.disk, file, size, self._offset + offset)
            finally:
                view.disk.close(file)
        except OSError as error:
            raise journal_error(error, f"the journal segment {segment.name} fails") from error
        assert len(data) == size, "what was just checked is still there"
        return data
