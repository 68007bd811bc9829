"""What every handler of every system calls: it counts, and costs about a microsecond.

Each process that runs handlers has a file of its own, of five numbers of 8 bytes in the order of
the machine, and then the latencies, so that the harness can watch without asking the queue:

    count | first | last | how many latencies | latency | latency | ...

`first` and `last` are when the first and the last one started, latencies how long after its stamp
a job did, all in nanoseconds of CLOCK_MONOTONIC, which is one clock for all processes.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path

FOLDER = "BENCH_HITS"
HEAD = struct.Struct("=4q")
ONE = struct.Struct("=q")
LATENCIES_MAX = 4000  # of one process: some times what a workload sends
SIZE = HEAD.size + ONE.size * LATENCIES_MAX
STAMP = "T"


def stamped() -> str:
    """Return the data of a job of 99 bytes that says when it was sent."""
    return f"{STAMP}{time.monotonic_ns()}.".ljust(99, "x")


class Hits:
    """The file of this process. A process that was forked gets one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0

    def hit(self, data: str | bytes = b"", count: int = 1, at: int = 0) -> None:
        """Count handler starts, at a time of CLOCK_MONOTONIC or now."""
        at = at or time.monotonic_ns()
        with self._lock:
            if self._pid != os.getpid():
                self._open(at)
            self._count += count
            head = data[:24].decode("ascii", "replace") if isinstance(data, bytes) else data[:24]
            if head.startswith(STAMP) and self._latencies < LATENCIES_MAX:
                waited = at - int(head[1:].partition(".")[0])
                ONE.pack_into(self._map, HEAD.size + ONE.size * self._latencies, waited)
                self._latencies += 1
            HEAD.pack_into(self._map, 0, self._count, self._first, at, self._latencies)

    def _open(self, at: int) -> None:
        self._pid, self._first = os.getpid(), at
        self._count = self._latencies = 0
        with (Path(os.environ[FOLDER]) / f"{self._pid}.hits").open("w+b") as file:
            file.truncate(SIZE)
            self._map = mmap.mmap(file.fileno(), SIZE)


hit = Hits().hit
