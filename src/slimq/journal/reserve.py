"""The reserve: a file of real blocks, given back to the disk when it is full.

Accepting stops with less free space than the size of the reserve; the reserve is then
freed, so that ingest, finishing and purging have room to go on. Accepting starts again
when there is room for the reserve and as much besides.
"""

from __future__ import annotations

from slimq.system.disk import Disk

NAME = "reserve"


class Reserve:
    """The reserve file of `size` bytes in a folder. Size 0: there is none."""

    def __init__(self, disk: Disk, folder: int, size: int) -> None:
        self._disk = disk
        self._folder = folder
        self._size = size
        self.held = False

    def is_low(self) -> bool:
        """Return whether less than its size is free besides it. Raises OSError."""
        return self._disk.free_bytes(self._folder) < self._size

    def build(self) -> bool:
        """Make it, if there is room for it and as much besides; return whether it is
        there. Raises OSError."""
        if self._size == 0 or self.held:
            self.held = True
        elif not self._exists() and self._disk.free_bytes(self._folder) < 2 * self._size:
            return False
        else:
            self._allocate()
            self.held = True
        return True

    def free(self) -> None:
        """Give its blocks back to the disk. Raises OSError."""
        self.held = False
        if self._exists():
            self._disk.unlink(self._folder, NAME)

    def _exists(self) -> bool:
        return NAME in self._disk.names(self._folder)

    def _allocate(self) -> None:
        file = self._disk.open(self._folder, NAME, write=True)
        try:
            self._disk.allocate(file, self._size)
            self._disk.fsync(file)
        finally:
            self._disk.close(file)
