"""Writers of a SQLite store take turns.

SQLite lets in who happens to ask right after a release. Measured with two busy writers:
a third waited 4 s for a lock that nobody held for more than 2 ms, because it slept while
the two passed the lock to and fro. So who wants to write first waits at the turnstile, a
lock on a file of its own, and passes it on once it has the lock of SQLite: nobody can
overtake the one that stands in it. The same three writers then wait 5 ms.

A process may be stopped while it stands there, or be paged out. The others wait for it once, and
then go around it until it moves.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

POLL_MS = 1  # how often who waits looks again; SQLite's own pauses grow to 100 ms


class Turnstile:
    """A lock on `path` for one writer at a time. It orders writers and protects nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._is_stuck = False  # somebody stands in it, and has for too long

    def enter(self, wait_ms: int) -> bool:
        """Wait for the turnstile; return False when it took too long. Raises OSError."""
        self._is_stuck = not self._enter(POLL_MS if self._is_stuck else wait_ms)
        return not self._is_stuck

    def _enter(self, wait_ms: int) -> bool:
        if self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._path, flags, 0o600)
        for _ in range(0, wait_ms, POLL_MS):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                pause()
        return False

    def leave(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def pause() -> None:
    """Sleep until it is worth looking at a lock again; there is nothing to wait on."""
    time.sleep(POLL_MS / 1000)
