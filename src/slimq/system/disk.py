"""The disk, behind a protocol, so that tests and a simulator can let any call fail.

Every system call that the journal makes is one method here. All raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

_COMMON = os.O_CLOEXEC | os.O_NOFOLLOW
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_TMPFILE = frozenset({errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP})
_IOV_MAX = 1024  # Linux's bound on the buffers of one writev
_LOCK_S = 0.5  # a child that a killed process was just starting shares its lock until the exec
_LOCK_RETRY_S = 0.01

Buffer = bytes | bytearray | memoryview


class FileFacts(NamedTuple):
    """What is known of a file or folder: `mode` as in stat, `modified_ms` since the epoch."""

    size: int
    modified_ms: int
    mode: int
    owner: int


class Disk(Protocol):
    """A disk. `folder` and `file` are descriptors; a `name` has no slash in it."""

    def make_folder(self, path: Path) -> None:
        """Make a folder (0700) with its parents, and make its entry durable."""

    def open_folder(self, path: Path) -> int: ...

    def names(self, folder: int) -> list[str]: ...

    def create(self, folder: int, name: str) -> int:
        """Create a file (0600) that must not exist yet, for reading and writing."""

    def open(self, folder: int, name: str, *, write: bool = False) -> int:
        """Open a file; with `write`, for writing too, and create it (0600) if needed."""

    def spool(self, path: Path) -> int:
        """Open a new nameless file in the folder `path`."""

    def lock(self, file: int) -> bool:
        """Lock a file for this process; return whether that worked. Waits a moment for one that was
        killed and has not quite ended."""

    def pread(self, file: int, size: int, offset: int) -> bytes: ...

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write at most 1024 buffers; return the number of bytes, maybe fewer than all."""

    def copy(self, source: int, target: int, size: int, offset: int, target_offset: int) -> int:
        """Copy bytes inside the kernel; return how many, maybe fewer than `size`."""

    def allocate(self, file: int, size: int) -> None:
        """Reserve real blocks for the first `size` bytes."""

    def truncate(self, file: int, size: int) -> None: ...

    def fdatasync(self, file: int) -> None: ...

    def fsync(self, file: int) -> None: ...

    def fsync_folder(self, folder: int) -> None: ...

    def unlink(self, folder: int, name: str) -> None: ...

    def rename(self, folder: int, name: str, new_name: str) -> None: ...

    def facts(self, file: int) -> FileFacts: ...

    def free_bytes(self, folder: int) -> int:
        """Return how many bytes this user can still write."""

    def close(self, file: int) -> None: ...


class SystemDisk:
    """The disk of this machine. See `Disk`."""

    def make_folder(self, path: Path) -> None:
        made = [parent for parent in (path, *path.parents) if not parent.exists()]
        for folder in reversed(made):  # `parents=True` would give the mode to the last only
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in made:
            parent = self.open_folder(folder.parent)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)

    def open_folder(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def names(self, folder: int) -> list[str]:
        return os.listdir(folder)

    def create(self, folder: int, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _COMMON
        return os.open(name, flags, 0o600, dir_fd=folder)

    def open(self, folder: int, name: str, *, write: bool = False) -> int:
        flags = (os.O_RDWR | os.O_CREAT if write else os.O_RDONLY) | _COMMON
        return os.open(name, flags, 0o600, dir_fd=folder)

    def spool(self, path: Path) -> int:
        try:
            return os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        return self._spool_by_name(path / f"{os.urandom(8).hex()}.spool")

    def _spool_by_name(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _COMMON, 0o600)
        path.unlink()
        return file

    def lock(self, file: int) -> bool:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOCK_RETRY_S)
            else:
                return True

    def pread(self, file: int, size: int, offset: int) -> bytes:
        return os.pread(file, size, offset)

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(file, buffers, offset)

    def copy(self, source: int, target: int, size: int, offset: int, target_offset: int) -> int:
        try:
            return os.copy_file_range(source, target, size, offset, target_offset)
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
        os.lseek(target, target_offset, os.SEEK_SET)
        return os.sendfile(target, source, offset, size)

    def allocate(self, file: int, size: int) -> None:
        os.posix_fallocate(file, 0, size)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def fdatasync(self, file: int) -> None:
        os.fdatasync(file)

    def fsync(self, file: int) -> None:
        os.fsync(file)

    def fsync_folder(self, folder: int) -> None:
        os.fsync(folder)

    def unlink(self, folder: int, name: str) -> None:
        os.unlink(name, dir_fd=folder)

    def rename(self, folder: int, name: str, new_name: str) -> None:
        os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=folder)

    def facts(self, file: int) -> FileFacts:
        stat = os.fstat(file)
        return FileFacts(stat.st_size, stat.st_mtime_ns // 1_000_000, stat.st_mode, stat.st_uid)

    def free_bytes(self, folder: int) -> int:
        stat = os.fstatvfs(folder)
        return stat.f_bavail * stat.f_frsize

    def close(self, file: int) -> None:
        os.close(file)


def write_all(disk: Disk, file: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Write all buffers at `offset`, going on after short writes; return the end offset."""
    for start in range(0, len(buffers), _IOV_MAX):
        offset = _write_some(disk, file, buffers[start : start + _IOV_MAX], offset)
    return offset


def _write_some(disk: Disk, file: int, buffers: Sequence[Buffer], offset: int) -> int:
    left = sum(map(len, buffers))
    while left:
        written = disk.pwritev(file, buffers, offset)
        if written <= 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        offset += written
        left -= written
        if left:
            buffers = _behind(buffers, written)
    return offset


def _behind(buffers: Sequence[Buffer], done: int) -> list[Buffer]:
    """Return what is left of `buffers` after their first `done` bytes."""
    rest: list[Buffer] = []
    for buffer in buffers:
        if done >= len(buffer):
            done -= len(buffer)
        else:
            rest.append(memoryview(buffer)[done:] if done else buffer)
            done = 0
    return rest


def copy_all(
    disk: Disk, source: int, target: int, size: int, target_offset: int, offset: int = 0
) -> int:
    """Copy `size` bytes of `source` from `offset` on; return the end offset in `target`."""
    while size:
        copied = disk.copy(source, target, size, offset, target_offset)
        if copied <= 0:
            raise OSError(errno.EIO, "the disk copied no bytes")
        offset += copied
        target_offset += copied
        size -= copied
    return target_offset


def read_all(disk: Disk, file: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes from `offset`; fewer only at the end of the file."""
    data = disk.pread(file, size, offset)
    while len(data) < size:
        more = disk.pread(file, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
