"""The journal folder: made, checked, held by one process, and named."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from slimq.errors import FolderHeld, FolderUnusable
from slimq.system.chance import Chance
from slimq.system.disk import Disk, write_all

LOCK = "lock"
NAME = "name"
SPOOL_SUFFIX = ".spool"
_NAME_TEXT = re.compile(rb"[0-9a-f]{16}", re.ASCII)


class HeldFolder:
    """A folder that this process holds until `release`."""

    def __init__(self, disk: Disk, path: Path, folder: int, lock: int) -> None:
        self.path = path
        self.folder = folder
        self._disk = disk
        self._lock = lock

    def release(self) -> None:
        self._disk.close(self._lock)
        self._disk.close(self.folder)


def hold_folder(disk: Disk, path: Path) -> HeldFolder:
    """Make the folder if needed and lock it.

    Raises FolderHeld when another process has it, FolderUnusable when others may write
    into it, and OSError.
    """
    disk.make_folder(path)
    folder = disk.open_folder(path)
    try:
        _check_mode(disk, path, folder)
        return HeldFolder(disk, path, folder, _lock(disk, path, folder))
    except BaseException:  # whatever it is, the descriptor must not leak
        disk.close(folder)
        raise


def _check_mode(disk: Disk, path: Path, folder: int) -> None:
    if stat.S_IMODE(disk.facts(folder).mode) & 0o022:
        raise FolderUnusable(f"{path} can be written by other users: chmod go-w it")


def _lock(disk: Disk, path: Path, folder: int) -> int:
    file = disk.open(folder, LOCK, write=True)
    try:
        _lock_now(disk, path, file)
        disk.truncate(file, 0)
        write_all(disk, file, [f"{os.getpid()}\n".encode()], 0)
    except BaseException:  # whatever it is, the descriptor must not leak
        disk.close(file)
        raise
    return file


def _lock_now(disk: Disk, path: Path, file: int) -> None:
    if not disk.lock(file):
        holder = disk.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise FolderHeld(f"{path} is held by another slimq, process {holder}")


def journal_name(disk: Disk, folder: int, known: str, chance: Chance) -> str:
    """Return the name of the journal, which is the key of its ingest cursor.

    It is made once, at random. `known` is what the segments say ('': nothing): it wins
    over a name file that is missing or damaged. Raises OSError.
    """
    file = disk.open(folder, NAME, write=True)
    try:
        written = disk.pread(file, 16, 0)
        valid = _NAME_TEXT.fullmatch(written) is not None
        name = known or (written.decode() if valid else chance.token(8).hex())
        if written != name.encode():
            write_all(disk, file, [name.encode() + b"\n"], 0)
            disk.fsync(file)
            disk.fsync_folder(folder)
        return name
    finally:
        disk.close(file)


def remove_spools(disk: Disk, folder: int) -> None:
    """Remove what aborted requests of an earlier process left. Raises OSError."""
    for name in disk.names(folder):
        if name.endswith(SPOOL_SUFFIX):
            disk.unlink(folder, name)
