"""Idempotency-Keys in a memory store, and the ids that stand for others because of them."""

from __future__ import annotations

from collections.abc import Container, Sequence

from slimq.core.jobid import block_from
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS
from slimq.store.base import KeyUse, NewJobs
from slimq.store.idempotency import Alias, Key, Sorted, in_window, sort_out


class Keys:
    """Who owns which key, and since when it is known."""

    def __init__(self) -> None:
        self._owners: dict[Key, KeyUse] = {}
        self._owned_at: dict[Key, int] = {}
        self._aliases: dict[Alias, int] = {}

    def sort(self, jobs: Sequence[NewJobs], now: int) -> Sorted:
        """Return what to do with jobs that come in, and remember it."""
        sorted_ = sort_out(jobs, self._owners)
        for key, owner in sorted_.owners.items():
            self._owners[key], self._owned_at[key] = owner, now
        for new, owner in sorted_.replays:
            self._aliases.setdefault(Alias(new.record, new.count, owner.first), now)
        return sorted_

    def use(self, key: Key, now: int) -> KeyUse | None:
        owner = self._owners.get(key)
        return owner if owner is not None and in_window(owner, now) else None

    def resolve(self, id_: str) -> str | None:
        """Return the id that the id of a replayed request stands for."""
        found = (alias.resolve(id_) for alias in self._aliases)
        return next((owner for owner in found if owner is not None), None)

    def forget(self, now: int, oldest: int, ids: Container[str]) -> None:
        """Forget keys that are past their window, and aliases from before `oldest` of jobs
        that are gone: not among `ids`."""
        window = now - IDEMPOTENCY_WINDOW_MS
        for key in [key for key, at in self._owned_at.items() if at < window]:
            del self._owners[key], self._owned_at[key]
        old = [alias for alias, at in self._aliases.items() if at < min(oldest, window)]
        for alias in old:
            if not any(id_ in ids for id_ in block_from(alias.owner, alias.size).ids()):
                del self._aliases[alias]
