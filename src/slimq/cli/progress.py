"""A progress line on a terminal: how far, how fast, how long still."""

from __future__ import annotations

from typing import TextIO

from slimq.cli.output import duration_text, size_text
from slimq.system.clock import Clock

REDRAW_MS = 100
_BAR = 24
_CLEAR = "\r\x1b[K"


class Progress:
    """Shows bytes and jobs as they are accepted. `total` is in bytes, None if unknown.
    Writes nothing where `stream` is not a terminal."""

    def __init__(self, stream: TextIO, clock: Clock, total: int | None) -> None:
        self._stream = stream
        self._clock = clock
        self._total = total
        self._started = clock.boot_ms()
        self._drawn = self._started - REDRAW_MS
        self._shows = stream.isatty()

    @property
    def elapsed_ms(self) -> int:
        return self._clock.boot_ms() - self._started

    def show(self, size: int, jobs: int) -> None:
        now = self._clock.boot_ms()
        if self._shows and now - self._drawn >= REDRAW_MS:
            self._drawn = now
            self._stream.write(_CLEAR + self.line(size, jobs))
            self._stream.flush()

    def clear(self) -> None:
        if self._shows:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def line(self, size: int, jobs: int) -> str:
        """Return what is shown when `size` bytes and `jobs` jobs are accepted."""
        elapsed_s = max(self.elapsed_ms, 1) / 1000
        facts = f"{size_text(size)}  {jobs:,} jobs  {jobs / elapsed_s:,.0f} jobs/s"
        if not self._total:
            return facts
        part = min(1.0, size / self._total)
        filled = round(part * _BAR)
        left = duration_text(elapsed_s * 1000 * (1 - part) / part) if part else "?"
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {part:4.0%}  {facts}  {left} left"
