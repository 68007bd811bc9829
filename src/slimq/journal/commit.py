"""Group commit: the queue in front of the writer. Whoever owns the thread calls `run`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from slimq.core.limits import (
    BUFFERED_FSYNC_S,
    GROUP_BYTES_MAX,
    GROUP_RECORDS_MAX,
    PROBE_INTERVAL_S,
)
from slimq.journal.writer import Append, JournalWriter


class GroupCommit:
    """Writes what is queued in groups, in the order of `submit`. `deliver` gets each
    group once, when it is durable or refused, on the committing thread."""

    def __init__(self, writer: JournalWriter, deliver: Callable[[list[Append]], None]) -> None:
        self._writer = writer
        self._deliver = deliver
        self._queue: deque[Append] = deque()
        self._changed = threading.Condition()
        self._closing = False

    def submit(self, append: Append) -> None:
        """Queue a record. From any thread."""
        with self._changed:
            self._queue.append(append)
            self._changed.notify()

    def close(self) -> None:
        """Let `run` return when the queue is empty."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def run(self) -> None:
        while True:
            group = self._next_group()
            if group:
                self._writer.commit(group)
                self._deliver(group)
            elif self._closing:
                self._writer.sync()
                return
            elif self._writer.refusal() is not None:
                self._writer.probe()
            else:
                self._writer.sync()

    def _next_group(self) -> list[Append]:
        """Wait for records, or until something else is due."""
        with self._changed:
            if not self._queue and not self._closing:
                self._changed.wait(self._patience())
            group: list[Append] = []
            size = 0
            while self._queue and len(group) < GROUP_RECORDS_MAX and size < GROUP_BYTES_MAX:
                append = self._queue.popleft()
                group.append(append)
                size += append.body.size
            return group

    def _patience(self) -> float | None:
        if self._writer.refusal() is not None:
            return PROBE_INTERVAL_S
        return BUFFERED_FSYNC_S if self._writer.unsynced else None
