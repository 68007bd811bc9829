"""The folder of a journal: held by one process, for its owner only, with a name of its own."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from slimq.errors import FolderHeld, FolderUnusable


class Folder:
    """An open and locked folder. `fd` is its file descriptor, `name` the journal's name."""

    def __init__(self, path: Path, token: bytes) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise FolderUnusable(f"cannot use folder {path}: {error.strerror}") from error
        try:
            self._check_owner()
            self._lock = self._hold()
            self.name = self._read_name(token)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self._lock)
        os.close(self.fd)

    def sync(self) -> None:
        os.fsync(self.fd)

    def _check_owner(self) -> None:
        mode = os.fstat(self.fd).st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FolderUnusable(f"folder {self.path} is writable by others: chmod 700 it")

    def _hold(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open("lock", flags, 0o600, dir_fd=self.fd)
        except OSError as error:
            raise FolderUnusable(f"cannot write in {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise FolderHeld(f"folder {self.path} is held by process {holder}") from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _read_name(self, token: bytes) -> str:
        """The name is kept for ever: it is the key of the ingest cursor in the store."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open("name", flags, 0o600, dir_fd=self.fd)
        try:
            name = os.read(file, 64).decode("ascii", "replace").strip()
            if not name:
                name = token.hex()
                os.write(file, name.encode() + b"\n")
                os.fsync(file)
                self.sync()
            return name
        finally:
            os.close(file)
