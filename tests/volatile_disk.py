"""A disk in memory that keeps at a power cut what was synced, and of the rest anything.

It is harsher than the file systems we know. Without an fsync of its folder a name may be gone,
or still there after it was removed, each by itself; also of a file that was synced. Of the
writes to a file since its last sync some may be there and others not, or in part. Where a later
one is there and an earlier one is not, there are zeros between.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

from slimq.system.disk import Buffer, FileFacts

SECTOR = 512
MODE = 0o40700


class PowerCut(BaseException):
    """The machine stops in the middle of a call. No code can catch it."""


class _File:
    def __init__(self) -> None:
        self.data = bytearray()  # as a process sees it
        self.safe = b""  # as of the last sync
        self.since: list[tuple[int, bytes] | int] = []  # writes and new sizes after that

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.since.append((offset, data))

    def resize(self, size: int) -> None:
        _resize(self.data, size)
        self.since.append(size)

    def sync(self) -> None:
        self.safe = bytes(self.data)
        self.since.clear()

    def cut_power(self, chance: random.Random) -> None:
        data = bytearray(self.safe)
        for change in self.since:
            if isinstance(change, int):
                if chance.random() < 0.5:
                    _resize(data, change)
                continue
            offset, written = change
            for start in range(0, len(written), SECTOR):
                if chance.random() < 0.5:
                    piece = written[start : start + SECTOR]
                    data.extend(bytes(max(0, offset + start - len(data))))
                    data[offset + start : offset + start + len(piece)] = piece
        self.data = data
        self.sync()


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class VolatileDisk:
    """Keeps the protocol `slimq.system.disk.Disk`, for one folder.

    `cut_in` calls that change something from now on the power is cut, before that call.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names: dict[str, _File] = {}  # as a process sees them
        self._safe: dict[str, _File] = {}  # as of the last sync of the folder
        self._open: dict[int, _File | None] = {}  # None: the folder
        self._next = 3
        self.cut_in: int | None = None

    # What happens to it.

    def cut_power(self) -> None:
        """Take away what is not safe, as chance wills it. Nothing is open any more."""
        for name in sorted(self._safe.keys() | self._names.keys()):
            now, safe = self._names.get(name), self._safe.get(name)
            left = now if self._chance.random() < 0.5 else safe
            self._names.pop(name, None)
            if left is not None:
                self._names[name] = left
        for file in self._names.values():
            file.cut_power(self._chance)
        self._safe = dict(self._names)
        self.kill()

    def kill(self) -> None:
        """Let the process go: what it wrote is there, and nothing is open any more."""
        self._open.clear()
        self.cut_in = None

    # What the journal asks of it.

    def make_folder(self, path: Path) -> None:
        pass  # it is there

    def open_folder(self, path: Path) -> int:
        return self._opened(None)

    def names(self, folder: int) -> list[str]:
        return list(self._names)

    def create(self, folder: int, name: str) -> int:
        self._change()
        if name in self._names:
            raise FileExistsError(errno.EEXIST, "it is there", name)
        self._names[name] = file = _File()
        return self._opened(file)

    def open(self, folder: int, name: str, *, write: bool = False) -> int:
        if write and name not in self._names:
            return self.create(folder, name)
        return self._opened(self._find(name))

    def spool(self, path: Path) -> int:
        return self._opened(_File())

    def lock(self, file: int) -> bool:
        assert file in self._open
        return True

    def pread(self, file: int, size: int, offset: int) -> bytes:
        return bytes(self._file(file).data[offset : offset + size])

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._change()
        data = b"".join(buffers)
        self._file(file).write(offset, data)
        return len(data)

    def copy(self, source: int, target: int, size: int, offset: int, target_offset: int) -> int:
        return self.pwritev(target, [self.pread(source, size, offset)], target_offset)

    def allocate(self, file: int, size: int) -> None:
        self._change()
        self._file(file).resize(max(size, len(self._file(file).data)))

    def truncate(self, file: int, size: int) -> None:
        self._change()
        self._file(file).resize(size)

    def fdatasync(self, file: int) -> None:
        self._change()
        self._file(file).sync()

    fsync = fdatasync  # which says nothing of the name

    def fsync_folder(self, folder: int) -> None:
        self._change()
        self._safe = dict(self._names)

    def unlink(self, folder: int, name: str) -> None:
        self._change()
        self._find(name)
        del self._names[name]

    def rename(self, folder: int, name: str, new_name: str) -> None:
        self._change()
        self._names[new_name] = self._find(name)
        del self._names[name]

    def facts(self, file: int) -> FileFacts:
        found = self._open[file]
        return FileFacts(0 if found is None else len(found.data), 0, MODE, os.geteuid())

    def free_bytes(self, folder: int) -> int:
        return 1 << 40

    def close(self, file: int) -> None:
        del self._open[file]

    def _change(self) -> None:
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                raise PowerCut

    def _opened(self, file: _File | None) -> int:
        self._next += 1
        self._open[self._next] = file
        return self._next

    def _file(self, number: int) -> _File:
        file = self._open[number]
        assert file is not None, "it is the folder"
        return file

    def _find(self, name: str) -> _File:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "it is not there", name)
        return self._names[name]
