"""Who owns an Idempotency-Key: decided where all nodes meet, at ingest.

Two nodes may both have acknowledged a request with one key while the store was down. The
first that is ingested owns the key; the ids of the other stand for the owner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from slimq.core.jobid import block_from, parse_id
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS
from slimq.store.base import KeyUse, NewJobs

Key = tuple[str, str]  # type, Idempotency-Key


class Sorted(NamedTuple):
    """Jobs to insert; requests that stand for another; keys that have a new owner."""

    inserts: list[NewJobs]
    replays: list[tuple[NewJobs, KeyUse]]
    owners: dict[Key, KeyUse]


class Alias(NamedTuple):
    """Id n of the block of `size` that starts at `first` is id n of the block at `owner`."""

    first: str
    size: int
    owner: str

    def resolve(self, id_: str) -> str | None:
        """Return the id that `id_` stands for, or None when it is not of this block."""
        index = block_from(self.first, self.size).index(id_)
        return None if index is None else block_from(self.owner, self.size).id_at(index)


def sort_out(jobs: Iterable[NewJobs], known: Mapping[Key, KeyUse]) -> Sorted:
    """Return what to do with jobs, some of which have keys. `known` says who owns these
    keys so far."""
    sorted_ = Sorted([], [], {})
    for new in jobs:
        key = (new.type, new.key)
        owner = sorted_.owners.get(key) or known.get(key)
        if not new.key:
            sorted_.inserts.append(new)
        elif owner is None or _is_over(owner, new.record):
            sorted_.owners[key] = KeyUse(new.record, new.count, new.digest)
            sorted_.inserts.append(new)
        elif owner.first != new.record and owner.digest == new.digest:
            sorted_.replays.append((new, owner))
        else:
            sorted_.inserts.append(new)
    return sorted_


def in_window(owner: KeyUse, now: int) -> bool:
    """Return whether a request that comes `now` is the same one."""
    return now - parse_id(owner.first).time_ms < IDEMPOTENCY_WINDOW_MS


def _is_over(owner: KeyUse, record: str) -> bool:
    """The window counts from accept to accept, however late both are ingested."""
    return not in_window(owner, parse_id(record).time_ms)
