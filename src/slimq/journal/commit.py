"""Group commit: requests that arrive while the disk is busy share the next fdatasync."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from slimq.core.limits import (
    BUFFERED_FSYNC_S,
    GROUP_BYTES_MAX,
    GROUP_RECORDS_MAX,
    LAY_OUT_AFTER_MS,
    PROBE_INTERVAL_S,
)
from slimq.errors import ShuttingDown
from slimq.journal.append import Append
from slimq.journal.writer import JournalWriter
from slimq.system.clock import Clock


class GroupCommit:
    """The queue in front of a writer. One thread is in `run`, or in `turn`; any may `submit`.

    `deliver` is called on that thread once for each group, with appends whose outcome is
    known, in the order in which they were submitted; `synced` when those that were delivered
    as buffered are durable, and so may be read.
    """

    def __init__(
        self,
        writer: JournalWriter,
        deliver: Callable[[list[Append]], None],
        *,
        clock: Clock,
        synced: Callable[[], None] = lambda: None,
        probe_interval_s: float = PROBE_INTERVAL_S,
        buffered_fsync_s: float = BUFFERED_FSYNC_S,
    ) -> None:
        self._writer = writer
        self._deliver = deliver
        self._synced = synced
        self._clock = clock
        self._probe_ms = probe_interval_s * 1000
        self._buffered_ms = buffered_fsync_s * 1000
        self._queue: queue.SimpleQueue[Sequence[Append] | None] = queue.SimpleQueue()
        self._closed = False
        self._due_at: float | None = None  # of the next sync or probe, ms since boot

    def submit(self, *appends: Append) -> None:
        """Queue appends; the order of these calls is the order in the journal. Those of one
        call go into one group.

        Raises ShuttingDown after `close`.
        """
        self.check_open()
        self._queue.put(appends)

    def check_open(self) -> None:
        """Raise ShuttingDown after `close`."""
        if self._closed:
            raise ShuttingDown("this node does not accept jobs any more: it is stopping")

    def run(self) -> None:
        """Commit group after group until `close`, and all that was queued before it."""
        while self.turn(self.patience_s()):
            pass
        self._writer.sync()

    def turn(self, wait_s: float) -> bool:
        """Commit a group, which is waited for, and do what else is due; return False after
        `close` and the last group."""
        group, more = self._next_group(wait_s)
        if group:
            self._writer.commit(group)
            self._deliver(group)
        if more and self._queue.empty():
            self._writer.lay_out(quiet=not group)
        self._tend()
        return more

    def patience_s(self) -> float:
        """Return for how long nothing is due, unless something is submitted."""
        wait_ms = self._probe_ms  # the writer may refuse from the start, or for the store
        if self._due_at is not None:
            wait_ms = max(0.0, self._due_at - self._clock.boot_ms())
        return min(wait_ms, LAY_OUT_AFTER_MS if self._writer.wants_room else wait_ms) / 1000

    def close(self) -> None:
        """Let `run` finish what is queued, and return."""
        self._closed = True
        self._queue.put(None)

    def _next_group(self, wait_s: float) -> tuple[list[Append], bool]:
        """Return all that is pending, within the bounds of a group, and whether more may
        come. Waits for the first append, or until something else is due."""
        group: list[Append] = []
        size = 0
        try:
            item = self._queue.get(timeout=wait_s)
            while item is not None:
                group += item
                size += sum([append.body.length for append in item])
                if len(group) >= GROUP_RECORDS_MAX or size >= GROUP_BYTES_MAX:
                    return group, True
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, True
        return group, False

    def _tend(self) -> None:
        """Sync what is buffered, or probe a journal that refuses, when it is due."""
        writer = self._writer
        refused = writer.refusal() is not None
        if not refused and not writer.unsynced:
            self._due_at = None
            return
        now = self._clock.boot_ms()
        if self._due_at is None:
            self._due_at = now + (self._probe_ms if refused else self._buffered_ms)
        elif now >= self._due_at:
            self._due_at = None
            if refused:
                writer.probe()
            else:
                writer.sync()
                self._synced()
            self._tend()
