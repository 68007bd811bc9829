"""Sizes as people write them: ``512KiB``, ``128MiB``, ``10GiB``."""

from __future__ import annotations

import re

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d{1,9})(B|KiB|MiB|GiB|TiB)", re.ASCII)
RULE = "a number followed by B, KiB, MiB, GiB or TiB, for example 128MiB, 10GiB"


def parse_bytes(text: str) -> int:
    """Return the bytes that `text` means; raise ValueError naming the rule."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"a size is {RULE}")
    return int(match[1]) * _UNITS[match[2]]


def format_bytes(size: int) -> str:
    """Return the shortest text that `parse_bytes` reads back as `size`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return f"{size}B"
