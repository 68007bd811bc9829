"""Durations as people write them: ``500ms``, ``90s``, ``5m``, ``2h``, ``3d``."""

from __future__ import annotations

import re

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
RULE = "a number followed by ms, s, m, h or d, for example 90s, 5m, 2h"


def parse_ms(text: str) -> int:
    """Return the milliseconds that `text` means; raise ValueError naming the rule."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"a duration is {RULE}")
    return int(match[1]) * _UNITS_MS[match[2]]


def format_ms(ms: int) -> str:
    """Return the shortest text that `parse_ms` reads back as `ms`."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"
