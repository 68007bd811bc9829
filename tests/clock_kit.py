"""The clock of tests that need time to pass."""

from __future__ import annotations

START_MS = 1_795_000_000_000
BOOT_MS = 5_000_000


class FakeClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.wall = START_MS
        self.boot = BOOT_MS

    def wall_ms(self) -> int:
        return self.wall

    def boot_ms(self) -> int:
        return self.boot

    def advance(self, ms: int) -> None:
        self.wall += ms
        self.boot += ms
