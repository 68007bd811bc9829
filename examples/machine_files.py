"""Real input for the demo: files of this machine, whose names become lines."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

ROOTS = ("/usr", "/opt", "/etc", sys.prefix, "/")  # "/": where the others hold too few
PASSED_OVER = {"/dev", "/mnt", "/proc", "/run", "/sys", "/tmp", "/var/cache", "/var/log"}
SIZE_MAX = 1024 * 1024


class File(NamedTuple):
    """A file as it was when it was looked at."""

    path: Path
    size: int
    changed_ns: int

    @property
    def line(self) -> bytes:
        """The data of a job: the path, which need not be valid UTF-8."""
        return os.fsencode(self.path)

    def hash(self) -> str | None:
        """Return the SHA-256; None when the file is no more what it was."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        return hashlib.sha256(data).hexdigest() if look_at(self.path) == self else None


def choose(count: int) -> list[File]:
    """Return so many files of this machine, or all when it has not as many. Raises
    RuntimeError when it has none."""
    files = list(islice(_walk(), count))
    if not files:
        raise RuntimeError(f"no file can be read that has at most {SIZE_MAX} bytes")
    return files


def _walk() -> Iterator[File]:
    seen = set(PASSED_OVER)
    for root in ROOTS:
        for folder, folders, names in os.walk(root):
            if folder in seen:
                folders.clear()
                continue
            seen.add(folder)
            for name in names:
                file = look_at(Path(folder, name))
                if file is not None:
                    yield file


def look_at(path: Path) -> File | None:
    """Return a file that can be hashed and whose path is one line; otherwise None."""
    try:
        about = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(about.st_mode) or about.st_size > SIZE_MAX or "\n" in str(path):
        return None
    return File(path, about.st_size, about.st_mtime_ns) if os.access(path, os.R_OK) else None
