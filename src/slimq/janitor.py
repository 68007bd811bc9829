"""Stage 9, tend: free abandoned jobs, purge done ones, keep the sysid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slimq.core.limits import FREE_JOBS_MAX, PURGE_JOBS_MAX, RENEW_MS, SWEEP_MS
from slimq.store.base import EngineStore, Freed, Node
from slimq.system.clock import Clock

PURGE_MS = 30_000  # retention is hours or days: so much later is soon enough


class Janitor:
    """Driven by `step`; each kind of work keeps its own time."""

    def __init__(
        self,
        store: EngineStore,
        sysid: str,
        started_at: int,
        about: Callable[[], dict[str, Any]],
        *,
        clock: Clock,
        ok_ms: int,
        failed_ms: int,
        bytes_max: int,
    ) -> None:
        self._store = store
        self._sysid = sysid
        self._started_at = started_at
        self._about = about
        self._clock = clock
        self._ok_ms, self._failed_ms, self._bytes_max = ok_ms, failed_ms, bytes_max
        self._free_at = self._purge_at = self._beat_at = 0  # boot time
        self.purged = 0

    def register(self) -> bool:
        """Reserve the sysid; return False when a living node has it."""
        return self._store.register(self._node())

    def free_former(self, sysid: str) -> Freed:
        """Take back the jobs of an earlier boot of this node, at once. When none is left,
        that boot is no node any more."""
        freed = self._store.free(FREE_JOBS_MAX, lock=sysid)
        if freed.again + freed.dead == 0:
            self._store.leave(sysid)
        return freed

    def step(self) -> Freed | None:
        """Do what is due. Raises StoreUnavailable; then it stays due."""
        boot = self._clock.boot_ms()
        if boot >= self._beat_at:
            self._store.beat(self._node())
            self._beat_at = boot + RENEW_MS
        if boot >= self._purge_at:
            self._purge(boot)
        if boot < self._free_at:
            return None
        freed = self._store.free(FREE_JOBS_MAX)
        if freed.again + freed.dead < FREE_JOBS_MAX:
            self._free_at = boot + SWEEP_MS
        return freed

    def _purge(self, boot: int) -> None:
        now = self._store.now()
        count = self._store.purge(
            ok_before=now - self._ok_ms,
            failed_before=now - self._failed_ms,
            bytes_max=self._bytes_max,
            limit=PURGE_JOBS_MAX,
        )
        self.purged += count
        if count < PURGE_JOBS_MAX:
            self._purge_at = boot + PURGE_MS

    def _node(self) -> Node:
        return Node(self._sysid, self._started_at, self._store.now(), self._about())
