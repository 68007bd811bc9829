"""Where damaged bytes go: copied once to a side file, counted, never read again."""

from __future__ import annotations

import threading
from pathlib import Path

from slimq.system.disk import Disk, copy_all


class Quarantine:
    """The folder of side files ``<segment>.<offset>.damaged`` and ``….cut``.

    `pieces` and `bytes` count the damage that was met since the start, each once.
    Safe to use from several threads.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self.pieces = 0
        self.bytes = 0
        self._path = path
        self._disk = disk
        self._met: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def keep(self, file: int, name: str, start: int, end: int) -> None:
        """Keep and count the damaged bytes [start, end) of the segment `name`.

        Raises OSError when they cannot be kept: do not go on behind them then.
        """
        with self._lock:
            if (name, start) in self._met:
                return
            self._copy(file, f"{name}.{start}.damaged", start, end)
            self._met.add((name, start))
            self.pieces += 1
            self.bytes += end - start

    def keep_cut(self, file: int, name: str, start: int, end: int) -> None:
        """Keep the torn tail [start, end): nothing of it was acknowledged, but as buffered."""
        self._copy(file, f"{name}.{start}.cut", start, end)

    def _copy(self, file: int, name: str, start: int, end: int) -> None:
        disk = self._disk
        disk.make_folder(self._path)
        folder = disk.open_folder(self._path)
        try:
            self._copy_into(folder, file, name, start, end)
        finally:
            disk.close(folder)

    def _copy_into(self, folder: int, file: int, name: str, start: int, end: int) -> None:
        disk = self._disk
        if name in disk.names(folder):
            return
        # A copy that a crash cut short has another name, and is made again.
        draft = name + ".part"
        if draft in disk.names(folder):
            disk.unlink(folder, draft)
        side = disk.create(folder, draft)
        try:
            there = max(start, min(end, disk.facts(file).size))
            copy_all(disk, file, side, there - start, 0, start)
            disk.fsync(side)
        finally:
            disk.close(side)
        disk.rename(folder, draft, name)
        disk.fsync_folder(folder)
