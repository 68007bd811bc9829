"""The disk of a simulated machine: what a process sees of it, and what a power cut leaves.

A file has bytes that everybody sees, and bytes that are durable. Between the two lie its
writes since the last sync: a power cut keeps all of them, none, the first few with the last
cut at a sector, or any sectors of any of them. What a failed sync did not write is never
written by a later one. Entries of a folder are durable once the folder is synced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from slimq.system.disk import Buffer, FileFacts

SECTOR = 512
CAPACITY = 16 << 20
CUTS = ("all", "none", "prefix", "torn")


class File:
    """An inode. `pending` holds its writes since the last sync, as (offset, bytes), and its
    truncations, as (size, None)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []
        self.modified_ms = 0
        self.locked = False


class Folder:
    """`pending` holds changes of entries since the last sync: names with the file that they
    stand for from then on (None: no file). Both names of a rename are one change."""

    def __init__(self) -> None:
        self.entries: dict[str, File] = {}
        self.durable: dict[str, File] = {}
        self.pending: list[dict[str, File | None]] = []


class VirtualDisk:
    """Keeps `slimq.system.disk.Disk`. `gate` is called with the name of every call before it
    is made: it may raise OSError, let time pass, or end the process. `fill` bytes are taken
    by somebody else. `short` lets writes write a part only."""

    def __init__(self, chance: Random, wall_ms: Callable[[], int]) -> None:
        self.gate: Callable[[str], None] = lambda name: None
        self.fill = 0
        self.short = False
        self._chance = chance
        self._wall_ms = wall_ms
        self._folders: dict[str, Folder] = {}
        self._open: dict[int, File | Folder] = {}
        self._next = 100
        self._used = 0

    # What a process does.

    def make_folder(self, path: Path) -> None:
        self.gate("make_folder")
        self._folders.setdefault(str(path), Folder())

    def open_folder(self, path: Path) -> int:
        self.gate("open_folder")
        return self._handle(self._folders[str(path)])

    def names(self, folder: int) -> list[str]:
        self.gate("names")
        return list(self._folder(folder).entries)

    def create(self, folder: int, name: str) -> int:
        self.gate("create")
        if name in self._folder(folder).entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return self._handle(self._make(folder, name))

    def open(self, folder: int, name: str, *, write: bool = False) -> int:
        self.gate("open")
        file = self._folder(folder).entries.get(name)
        if file is None:
            if not write:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            file = self._make(folder, name)
        return self._handle(file)

    def spool(self, path: Path) -> int:
        self.gate("spool")
        return self._handle(File())

    def lock(self, file: int) -> bool:
        held = self._file(file)
        if held.locked:
            return False
        held.locked = True
        return True

    def pread(self, file: int, size: int, offset: int) -> bytes:
        self.gate("pread")
        return bytes(self._file(file).data[offset : offset + size])

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        self.gate("pwritev")
        return self._write(self._file(file), b"".join(buffers), offset)

    def copy(self, source: int, target: int, size: int, offset: int, target_offset: int) -> int:
        self.gate("copy")
        data = bytes(self._file(source).data[offset : offset + size])
        return self._write(self._file(target), data, target_offset)

    def allocate(self, file: int, size: int) -> None:
        self.gate("allocate")
        found = self._file(file)
        grows = max(0, size - len(found.data))
        if grows > self.free_now():
            raise _full()
        self._put(found, b"\0" * grows, len(found.data))

    def truncate(self, file: int, size: int) -> None:
        self.gate("truncate")
        found = self._file(file)
        self._used -= max(0, len(found.data) - size)
        del found.data[size:]
        found.pending.append((size, None))

    def fdatasync(self, file: int) -> None:
        self.fsync(file)

    def fsync(self, file: int) -> None:
        found = self._file(file)
        try:
            self.gate("fsync")
        except OSError:
            found.pending = [each for each in found.pending if self._chance.random() < 0.5]
            _apply(found)
            raise
        _apply(found)

    def fsync_folder(self, folder: int) -> None:
        self.gate("fsync_folder")
        found = self._folder(folder)
        found.durable = dict(found.entries)
        found.pending.clear()

    def unlink(self, folder: int, name: str) -> None:
        self.gate("unlink")
        found = self._folder(folder)
        if name not in found.entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._used -= len(found.entries.pop(name).data)
        found.pending.append({name: None})

    def rename(self, folder: int, name: str, new_name: str) -> None:
        self.gate("rename")
        found = self._folder(folder)
        file = found.entries.pop(name)
        found.entries[new_name] = file
        found.pending.append({name: None, new_name: file})

    def facts(self, file: int) -> FileFacts:
        self.gate("facts")
        found = self._open[file]
        if isinstance(found, Folder):
            return FileFacts(0, 0, stat.S_IFDIR | 0o700, 0)
        return FileFacts(len(found.data), found.modified_ms, stat.S_IFREG | 0o600, 0)

    def free_bytes(self, folder: int) -> int:
        self.gate("free_bytes")
        return self.free_now()

    def close(self, file: int) -> None:
        found = self._open.pop(file, None)
        if isinstance(found, File):
            found.locked = found.locked and found in self._open.values()

    # What happens to it.

    def free_now(self) -> int:
        return max(0, CAPACITY - self._used - self.fill)

    def process_died(self) -> None:
        """The kernel closes what the process had open; all that it wrote is there."""
        for found in self._open.values():
            if isinstance(found, File):
                found.locked = False
        self._open.clear()

    def power_cut(self, how: str) -> None:
        """Everything that is not durable is kept as `how` says, one of CUTS."""
        self.process_died()
        for folder in self._folders.values():
            for change in self._kept(folder.pending, how):
                folder.durable.update(change)
            folder.durable = {name: file for name, file in folder.durable.items() if file}
            folder.entries = dict(folder.durable)
            folder.pending = []
            for file in folder.entries.values():
                file.pending = list(self._survivors(file.pending, how))
                _apply(file)
                file.data = bytearray(file.durable)
        self._used = sum(len(f.data) for d in self._folders.values() for f in d.entries.values())

    def _kept(self, changes: list, how: str) -> list:
        if how in ("all", "none"):
            return changes if how == "all" else []
        if how == "prefix":
            return changes[: self._chance.randrange(len(changes) + 1)]
        return [change for change in changes if self._chance.random() < 0.5]

    def _survivors(
        self, writes: list[tuple[int, bytes | None]], how: str
    ) -> Iterator[tuple[int, bytes | None]]:
        if how != "torn":
            kept = self._kept(writes, how)
            yield from kept
            if how == "prefix" and len(kept) < len(writes):
                offset, data = writes[len(kept)]
                if data is not None:
                    end = self._chance.randrange(len(data) + 1)
                    yield offset, data[: max(0, (offset + end) // SECTOR * SECTOR - offset)]
            return
        for offset, data in writes:
            if data is None:
                yield offset, data
                continue
            start = 0
            while start < len(data):
                end = (offset + start) // SECTOR * SECTOR + SECTOR - offset
                if self._chance.random() < 0.5:
                    yield offset + start, data[start:end]
                start = end

    # Within.

    def _write(self, file: File, data: bytes, offset: int) -> int:
        if self.short and len(data) > 1:
            data = data[: self._chance.randrange(1, len(data))]
        room = len(file.data) + self.free_now() - offset
        if room < len(data):
            data = data[: max(0, room)]
            if not data:
                raise _full()
        self._put(file, data, offset)
        return len(data)

    def _put(self, file: File, data: bytes, offset: int) -> None:
        end = offset + len(data)
        self._used += max(0, end - len(file.data))
        if offset > len(file.data):
            file.data += b"\0" * (offset - len(file.data))
        file.data[offset:end] = data
        file.pending.append((offset, data))
        file.modified_ms = self._wall_ms()

    def _make(self, folder: int, name: str) -> File:
        found, file = self._folder(folder), File()
        file.modified_ms = self._wall_ms()
        found.entries[name] = file
        found.pending.append({name: file})
        return file

    def _handle(self, what: File | Folder) -> int:
        self._next += 1
        self._open[self._next] = what
        return self._next

    def _file(self, file: int) -> File:
        found = self._open[file]
        assert isinstance(found, File), "it is a file"
        return found

    def _folder(self, folder: int) -> Folder:
        found = self._open[folder]
        assert isinstance(found, Folder), "it is a folder"
        return found


def _apply(file: File) -> None:
    """Make what is pending durable."""
    for offset, data in file.pending:
        if data is None:
            del file.durable[offset:]
            continue
        if offset > len(file.durable):
            file.durable += b"\0" * (offset - len(file.durable))
        file.durable[offset : offset + len(data)] = data
    file.pending.clear()


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
