"""Where claims begin to look: above what is known to be gone.

The index of waiting jobs begins with entries of jobs that were claimed. While an old
snapshot is open anywhere (a backup, a forgotten psql), they cannot be removed, and a claim
that begins at the start passes over all of them: measured, a million of them halve the
rate. So a claim begins where the last one of its type ended.

What came in below the floor is found by a look from the start, FULL_EVERY_MS later at most,
or at once if it came through this store object.
"""

from __future__ import annotations

from typing import NamedTuple

FULL_EVERY_MS = 5_000
MARGIN_MS = 2_000  # what other nodes accepted may come in so much later than its dt
TYPES_MAX = 10_000  # that have a floor


class Place(NamedTuple):
    """A place in line."""

    dt: int = 0
    seq: int = 0


START = Place()


class _Floor(NamedTuple):
    at: Place
    full_at: int  # when there was the last look from the start


class Floors:
    """The floors of types, by their numbers. `full_every_ms` 0: every look is a full one."""

    def __init__(self, full_every_ms: int = FULL_EVERY_MS) -> None:
        self._full_every_ms = full_every_ms
        self._floors: dict[int, _Floor] = {}

    def get(self, type_id: int, now: int) -> Place:
        """Return where to begin; START when it is time for a look at everything."""
        floor = self._floors.get(type_id)
        if floor is None or now >= floor.full_at + self._full_every_ms:
            return START
        return floor.at

    def took(self, type_id: int, begun: Place, last: Place, now: int) -> None:
        """A claim that began at `begun` took what is up to and with `last`."""
        full_at = now if begun == START else self._floors[type_id].full_at
        if len(self._floors) >= TYPES_MAX and type_id not in self._floors:
            self._floors.clear()
        at = last if last.dt < now - MARGIN_MS else Place(last.dt - MARGIN_MS, 0)
        self._floors[type_id] = _Floor(max(begun, at), full_at)

    def lower(self, type_id: int, dt: int) -> None:
        """Jobs came in, or back, that wait since `dt`."""
        floor = self._floors.get(type_id)
        if floor is not None and floor.at.dt >= dt:
            self._floors[type_id] = floor._replace(at=Place(dt, 0))

    def clear(self) -> None:
        self._floors.clear()
