"""Damaged bytes are kept aside, once, for a person to look at."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "quarantine"


def keep(folder: Path, segment: int, offset: int, data: bytes, why: str = "damaged") -> bool:
    """Copy damaged bytes to a side file; return False when that was done before."""
    aside = folder / FOLDER
    aside.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(aside / f"{segment:08d}-{offset}.{why}", flags, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(file, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return True


def count(folder: Path) -> int:
    """Return how many damaged places were ever put aside."""
    aside = folder / FOLDER
    return sum(1 for _ in aside.glob("*.damaged")) if aside.exists() else 0
