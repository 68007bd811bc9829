"""The clock of a SQLite store: one for all nodes of the machine, and no step moves it.

Its time is an offset, kept in the store, plus the time since boot. So nodes whose wall
clock was stepped between their starts still judge leases alike. The offset is taken
anew from the wall clock after a boot, and by the first node that opens the store while
no other is alive.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from slimq.core.limits import LEASE_MS
from slimq.system.clock import Clock

DRIFT_MAX_MS = 1_000  # a smaller difference to the wall clock is not worth a step

_RUNNING = "lock <> '' AND lock <> '__done'"


def boot_id() -> str:
    """Return the name that Linux gives to the time since the machine was booted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class StoreClock:
    """`boot_id` names the boot of the machine that the clock's `boot_ms` counts from."""

    def __init__(self, clock: Clock, boot_id: str) -> None:
        self._clock = clock
        self._boot_id = boot_id
        self._offset: int | None = None
        self._latest = 0

    @property
    def known(self) -> bool:
        """Whether the store was opened once."""
        return self._offset is not None

    def boot_ms(self) -> int:
        return self._clock.boot_ms()

    def now(self) -> int:
        """Return the store's time. It never goes back, but where another node set it back."""
        assert self._offset is not None, "the store was opened"
        self._latest = max(self._latest, self._offset + self._clock.boot_ms())
        return self._latest

    def start(self, db: apsw.Connection) -> None:
        """Adopt the store's offset, or set it. Called once per connection, outside of a
        transaction."""
        if self._fits(db):
            self.adopt(db)
            return
        db.execute("BEGIN IMMEDIATE")
        if not self._fits(db):
            self._anchor(db)
        db.execute("COMMIT")
        self.adopt(db)

    def adopt(self, db: apsw.Connection) -> None:
        """Take the offset that holds now. Another node may have set it, also back, while this
        one was no longer seen: who kept the old time would find the leases of others over."""
        offset = db.execute("SELECT value FROM meta WHERE name = 'clock_offset'").get
        if offset is not None and int(offset) != self._offset:
            self._offset, self._latest = int(offset), 0

    def finds_alive(self, db: apsw.Connection) -> bool:
        """Return whether a node lives, by the offset that is in the store. After a boot
        none does."""
        if db.execute("SELECT value FROM meta WHERE name = 'boot_id'").get != self._boot_id:
            return False
        offset = db.execute("SELECT value FROM meta WHERE name = 'clock_offset'").get
        return is_any_alive(db, int(offset) + self._clock.boot_ms())

    def _wall_offset(self) -> int:
        return self._clock.wall_ms() - self._clock.boot_ms()

    def _fits(self, db: apsw.Connection) -> bool:
        if db.execute("SELECT value FROM meta WHERE name = 'boot_id'").get != self._boot_id:
            return False
        offset = int(db.execute("SELECT value FROM meta WHERE name = 'clock_offset'").get)
        if self.known or abs(self._wall_offset() - offset) <= DRIFT_MAX_MS:
            return True
        return is_any_alive(db, offset + self._clock.boot_ms())

    def _anchor(self, db: apsw.Connection) -> None:
        """Set the offset. Leases and signs of life keep the time that they have left; after
        a boot they have none: their owners are gone."""
        offset = self._wall_offset()
        if db.execute("SELECT value FROM meta WHERE name = 'boot_id'").get == self._boot_id:
            old = db.execute("SELECT value FROM meta WHERE name = 'clock_offset'").get
            db.execute(f"UPDATE job SET dt = dt + ? WHERE {_RUNNING}", (offset - old,))  # noqa: S608
            db.execute("UPDATE node SET seen_at = seen_at + ?", (offset - old,))
        else:
            now = offset + self._clock.boot_ms()
            db.execute(f"UPDATE job SET dt = min(dt, ?) WHERE {_RUNNING}", (now,))  # noqa: S608
            db.execute("UPDATE node SET seen_at = min(seen_at, ?)", (now - LEASE_MS,))
        db.execute("REPLACE INTO meta VALUES ('boot_id', ?)", (self._boot_id,))
        db.execute("REPLACE INTO meta VALUES ('clock_offset', ?)", (offset,))


def is_any_alive(db: apsw.Connection, now: int) -> bool:
    """Return whether a node was seen within the last lease."""
    found = db.execute("SELECT 1 FROM node WHERE seen_at > ? LIMIT 1", (now - LEASE_MS,)).get
    return found is not None
