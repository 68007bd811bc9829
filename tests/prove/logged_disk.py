"""A disk of one file that writes down, in order, all that is written to it and all flushes.

It lies below the file system: a loop device on the file makes it a block device, and the
kernel's ext4 on that does what it does on any disk. Served by FUSE, spoken here as the kernel
speaks it, so that nothing has to be installed: `python logged_disk.py IMAGE FOLDER LOG` mounts
FOLDER with the one file `disk`, whose content begins as that of IMAGE.

The log is a sequence of entries: a head (`HEAD`: kind, time, offset, length) and, of a write,
its bytes. Requests are served one after the other, so a flush covers all writes before it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

WRITE, FLUSH = 0, 1
HEAD = struct.Struct("<BQQI")
MAX_WRITE = 1 << 20
NAME = b"disk"

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 1, 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 18, 20, 25, 26, 36, 38, 42
_NO_ANSWER = {_FORGET, _BATCH_FORGET, _INTERRUPT}
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_ROOT, _FILE = 1, 2
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22


class Entry(NamedTuple):
    """A write of `data` at `offset`, or a flush. `at` is its time, ns of CLOCK_MONOTONIC."""

    kind: int
    at: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Entry]:
    def entries(file: BinaryIO) -> Iterator[Entry]:
        while head := file.read(HEAD.size):
            kind, at, offset, length = HEAD.unpack(head)
            yield Entry(kind, at, offset, file.read(length))

    with path.open("rb") as file:
        return list(entries(file))


class _Server:
    def __init__(self, image: Path, log: FileIO, fuse: int) -> None:
        self._data = bytearray(image.read_bytes())
        self._log = log
        self._fuse = fuse

    def serve(self) -> None:
        """Answer requests until the folder is unmounted."""
        while True:
            try:
                request = os.read(self._fuse, MAX_WRITE + 8192)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            _, code, unique, node, *_ = _IN.unpack_from(request)
            if code in _NO_ANSWER:
                continue
            try:
                answer, failure = self._answer(code, node, memoryview(request)[_IN.size :]), 0
            except OSError as error:
                answer, failure = b"", error.errno or errno.EIO
            os.write(self._fuse, _OUT.pack(_OUT.size + len(answer), -failure, unique) + answer)

    def _answer(self, code: int, node: int, body: memoryview) -> bytes | bytearray:
        if code == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._write(offset, body[40 : 40 + size])
            return struct.pack("<II", size, 0)
        if code == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self._data[offset : offset + size]
        if code == _FSYNC:
            self._log.write(HEAD.pack(FLUSH, time.monotonic_ns(), 0, 0))
            return b""
        return self._answer_about(code, node, body)

    def _answer_about(self, code: int, node: int, body: memoryview) -> bytes:
        """Answer what is no access to the data."""
        if code == _INIT:
            flags = _BIG_WRITES | _MAX_PAGES
            head = struct.pack("<4I2HI", 7, 31, MAX_WRITE, flags, 16, 12, MAX_WRITE)
            return (head + struct.pack("<I2H", 1, MAX_WRITE // 4096, 0)).ljust(64, b"\0")
        if code == _LOOKUP:
            if bytes(body).rstrip(b"\0") != NAME:
                raise OSError(errno.ENOENT, "there is one file only")
            return struct.pack("<4Q2I", _FILE, 1, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if code in (_GETATTR, _SETATTR):
            return struct.pack("<Q2I", 3600, 0, 0) + self._attributes(node)
        if code == _OPEN:
            return struct.pack("<Q2I", 0, 0, 0)
        if code == _STATFS:
            return bytes(80)
        if code in (_RELEASE, _FLUSH, _DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not needed for a disk")

    def _write(self, offset: int, data: memoryview) -> None:
        head = HEAD.pack(WRITE, time.monotonic_ns(), offset, len(data))
        os.writev(self._log.fileno(), (head, data))
        self._data[offset : offset + len(data)] = data

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFREG | 0o600 if node == _FILE else stat.S_IFDIR | 0o700
        size = len(self._data) if node == _FILE else 0
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main(image: Path, folder: Path, log: Path) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    words = [word.encode() for word in ("slimq-disk", str(folder), "fuse")]
    if libc.mount(*words, ctypes.c_ulong(0), options.encode()) != 0:
        sys.exit(f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
    with log.open("wb", buffering=0) as file:
        server = _Server(image, file, fuse)
        print("mounted", flush=True)
        server.serve()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
