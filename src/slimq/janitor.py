"""Stage 9, tend: free abandoned jobs, purge done ones, keep the sysid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from slimq.core.limits import (
    FORMER_LOOK_MS,
    FORMER_MS,
    FREE_JOBS_MAX,
    PURGE_JOBS_MAX,
    RENEW_MS,
    SWEEP_MS,
)
from slimq.store.base import EngineStore, Freed, Node
from slimq.system.clock import Clock

PURGE_MS = 30_000  # retention is hours or days: so much later is soon enough


NONE = Freed(0, 0, {})


class Janitor:
    """Driven by `step`; each kind of work keeps its own time.

    `former` are sysids of earlier boots of this node, whose jobs are taken back whatever their
    leases: before it is registered, and for a while after. A server of PostgreSQL ends what a
    killed process asked for last, and what that still holds is passed over by whoever looks.
    `forgotten` is called with each one when that is over."""

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
        former: Sequence[str] = (),
        forgotten: Callable[[str], None] = lambda sysid: None,
    ) -> None:
        self._store = store
        self._sysid = sysid
        self._started_at = started_at
        self._about = about
        self._clock = clock
        self._ok_ms, self._failed_ms, self._bytes_max = ok_ms, failed_ms, bytes_max
        self._former, self._forgotten = list(former), forgotten
        self._former_at = self._former_until = 0  # boot time
        self._free_at = self._purge_at = self._beat_at = 0  # boot time
        self.purged = 0

    def free_former(self) -> Freed:
        """Take back jobs of earlier boots; return none when none are found any more."""
        for sysid in self._former:
            freed = self._store.free(FREE_JOBS_MAX, lock=sysid)
            if freed.again + freed.dead:
                return freed
        return NONE

    def register(self) -> bool:
        """Reserve the sysid; return False when a living node has it. Earlier boots are no
        nodes from now on."""
        for sysid in self._former:
            self._store.leave(sysid)
        boot = self._clock.boot_ms()
        self._former_at, self._former_until = boot + FORMER_LOOK_MS, boot + FORMER_MS
        return self._store.register(self._node())

    def step(self) -> Freed | None:
        """Do what is due. Raises StoreUnavailable; then it stays due."""
        boot = self._clock.boot_ms()
        if boot >= self._beat_at:
            self._store.beat(self._node())
            self._beat_at = boot + RENEW_MS
        if boot >= self._purge_at:
            self._purge(boot)
        if self._former and boot >= self._former_at:
            return self._look_after_former(boot)
        if boot < self._free_at:
            return None
        freed = self._store.free(FREE_JOBS_MAX)
        if freed.again + freed.dead < FREE_JOBS_MAX:
            self._free_at = boot + SWEEP_MS
        return freed

    def _look_after_former(self, boot: int) -> Freed:
        freed = self.free_former()
        if freed is NONE:
            self._former_at = boot + FORMER_LOOK_MS
        if freed is NONE and boot >= self._former_until:
            while self._former:
                self._store.leave(self._former[0])
                self._forgotten(self._former.pop(0))
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
