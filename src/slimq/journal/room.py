"""Room behind the end of a segment: zeros, laid out while nothing is appended.

An append into new blocks changes the length of the file and its map of blocks, which the
fdatasync writes as well, and takes new pages of memory. Into room it is the bytes alone.
In silence there is room made for another burst like the last one; between two groups that
follow each other, for a few more like them.
"""

from __future__ import annotations

from slimq.core.limits import LAY_OUT_MAX, LAY_OUT_MIN, LAY_OUT_STEP
from slimq.journal.segment_file import SegmentFile

_GROUPS = 4  # like the last one, between two groups


class Room:
    """Says how much room to lay out, and when."""

    def __init__(self) -> None:
        self._group = 0  # bytes appended last
        self._burst = 0  # and since there was enough room
        self._lacking = 0

    @property
    def is_lacking(self) -> bool:
        return self._lacking > 0

    def appended(self, file: SegmentFile, length: int, size_max: int) -> None:
        """A group was appended; a file of `size_max` bytes is full. Half of the least room is
        enough, so that not each line asks for more."""
        self._group = length
        self._burst += length
        goal = min(max(self._burst, LAY_OUT_MIN // 2), LAY_OUT_MAX, size_max - file.written)
        self._lacking = goal - file.room

    def lay_out(self, file: SegmentFile, spare: int, *, quiet: bool) -> None:
        """Take a step, unless the disk has hardly more to spare. Raises OSError."""
        lacking, self._lacking = self._lacking, 0  # if it fails: none before more is appended
        if spare < LAY_OUT_MAX:
            return
        step = self._step(file, lacking, quiet)
        if step:
            file.lay_out(step)
            if quiet:
                file.sync()  # else the next group's sync is for both
        self._lacking = lacking - step
        if self._lacking <= 0:
            self._burst = 0

    def _step(self, file: SegmentFile, lacking: int, quiet: bool) -> int:
        step = min(max(lacking, LAY_OUT_MIN), LAY_OUT_STEP)
        if quiet:
            return step
        if file.room >= max(self._group, LAY_OUT_MIN // 2):
            return 0
        return min(step, max(_GROUPS * self._group, LAY_OUT_MIN))
