"""Idempotency-Keys of jobs that are accepted on this node but not yet in the store.

    free -- begin --> in flight -- accepted --> pending -- ingested --> free
                          |                                  (the store knows the key now)
                          +-- cancel --> free

The scope of a key is the type. Two nodes may accept one key at the same time; the store
decides at ingest which request owns it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from slimq.api.options import Durability
from slimq.core.limits import PENDING_KEYS_MAX
from slimq.errors import KeyInFlight, OperatorError
from slimq.journal.record import Header, Position
from slimq.store.base import KeyUse
from slimq.store.idempotency import in_window


class TypeKey(NamedTuple):
    type: str
    key: str


class Owner(NamedTuple):
    """The request that used a key, the level of durability that it has reached, and where
    its record ends in the journal (None: in the store, or from before this process)."""

    use: KeyUse
    durability: Durability
    end: Position | None


class PendingKeys:
    """The table. Used on the event loop only."""

    def __init__(self, limit: int = PENDING_KEYS_MAX) -> None:
        self._limit = limit
        self._in_flight: set[TypeKey] = set()
        self._pending: dict[TypeKey, Owner] = {}
        self._records: dict[str, list[TypeKey]] = {}  # keys by the first id of their record

    def __len__(self) -> int:
        return len(self._pending) + len(self._in_flight)

    def begin(self, key: TypeKey, now: int) -> Owner | None:
        """Return who used a key within the window before `now` (ms); otherwise it is in
        flight until `accepted` or `cancel`. Raises KeyInFlight, OperatorError when the table
        is full."""
        if key in self._in_flight:
            raise KeyInFlight("a request with this key is being accepted; try again")
        owner = self._pending.get(key)
        if owner is not None and not in_window(owner.use, now):
            del self._pending[key]
            owner = None
        if owner is None:
            if len(self) >= self._limit:
                raise OperatorError("too many Idempotency-Keys wait for the store")
            self._in_flight.add(key)
        return owner

    def submitted(self, record: str, keys: Collection[TypeKey]) -> None:
        """A record with the first id `record` and these keys is on its way to the journal.
        It can be ingested before the news that it is durable gets here."""
        self._records[record] = list(keys)

    def accepted(self, record: str, uses: Mapping[TypeKey, Owner]) -> None:
        """The record is durable."""
        self._in_flight.difference_update(uses)
        if record in self._records:
            self._pending.update(uses)

    def cancel(self, keys: Iterable[TypeKey], record: str = "") -> None:
        """These keys were not used after all; their record, if there is one, failed."""
        self._in_flight.difference_update(keys)
        self._records.pop(record, None)

    def ingested(self, headers: Iterable[Header]) -> None:
        """These records are in the store."""
        for header in headers:
            for key in self._records.pop(header.id, ()):
                self._pending.pop(key, None)

    def restore(self, header: Header, uses: Mapping[TypeKey, KeyUse]) -> None:
        """Take in a record found in the journal at start, oldest first: a later one that
        repeats a key does not own it, as at ingest."""
        fresh = {
            key: Owner(use, "journal", None)
            for key, use in uses.items()
            if key not in self._pending
        }
        if fresh:
            self.submitted(header.id, fresh)
            self.accepted(header.id, fresh)
