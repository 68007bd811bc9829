"""The event loop of a simulated process: the one of asyncio, on virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any


class VirtualLoop(asyncio.BaseEventLoop):
    """Waits for nothing: `turn` runs all that is ready at `boot_ms`, and says when there is
    more. `rung` is called when another thread of the process has something for it."""

    def __init__(self, boot_ms: Callable[[], int], rung: Callable[[], None]) -> None:
        super().__init__()
        self._boot_ms = boot_ms
        self._rung = rung
        self._selector = self  # what the base class asks to wait
        self._wait_s: float | None = None

    def time(self) -> float:
        return self._boot_ms() / 1000

    def turn(self) -> int | None:
        """Return how many ms later a timer is due."""
        self.run_forever()
        return None if self._wait_s is None else math.ceil(self._wait_s * 1000 - 1e-6)

    def end(self) -> None:
        """Let everything on it come to its end, as if it were cancelled."""
        while tasks := asyncio.all_tasks(self):  # what ends may begin something else
            for task in tasks:
                task.cancel()
            self.turn()
        self.close()

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:  # nothing is ready
            self._wait_s = timeout
            self.stop()
        return []

    def _process_events(self, events: list[Any]) -> None:
        """There are no files on it."""

    def _write_to_self(self) -> None:
        self._rung()
