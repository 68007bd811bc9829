"""Time, behind a protocol, so that a simulator can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Return the time of day in ms since the epoch, UTC. It may step."""

    def boot_ms(self) -> int:
        """Return ms since the machine booted. It never steps, and counts suspended time
        (CLOCK_MONOTONIC does not)."""


class SystemClock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
