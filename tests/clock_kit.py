"""The clock of tests that need time to pass."""

from __future__ import annotations

from collections.abc import Callable

START_MS = 1_795_000_000_000
BOOT_MS = 5_000_000


class FakeClock:
    """Time that moves when it is told to. `watchers` are told when time has passed."""

    def __init__(self) -> None:
        self.wall = START_MS
        self._boot = BOOT_MS
        self.watchers: list[Callable[[], None]] = []

    @property
    def boot(self) -> int:
        return self._boot

    @boot.setter
    def boot(self, ms: int) -> None:
        self._boot = ms
        for tell in self.watchers:
            tell()

    def wall_ms(self) -> int:
        return self.wall

    def boot_ms(self) -> int:
        return self._boot

    def advance(self, ms: int) -> None:
        self.wall += ms
        self.boot += ms
