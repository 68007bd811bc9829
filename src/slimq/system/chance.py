"""Chance, behind a protocol, so that a simulator can replay it."""

from __future__ import annotations

import os
import random
from typing import Protocol


class Chance(Protocol):
    def uniform(self) -> float:
        """Return a number in [0, 1)."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that cannot be guessed."""


class SystemChance:
    def uniform(self) -> float:
        return random.random()  # noqa: S311 -- spreads delays, guards nothing

    def token(self, size: int) -> bytes:
        return os.urandom(size)
