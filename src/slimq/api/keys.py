"""Who owns an Idempotency-Key: asked of the node's own table first, then of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from slimq.api.keys_pending import Owner, PendingKeys, TypeKey
from slimq.api.options import Durability
from slimq.api.ports import NodePort
from slimq.errors import DurabilityUnmet, KeyReused, StoreUnavailable
from slimq.store.base import KeyUse
from slimq.system.clock import Clock

KEYS_ASK_S = 2.0  # accepting does not wait for a store that is silent
_RANK: dict[Durability, int] = {"buffered": 0, "journal": 1, "store": 2}


class KeyResolver:
    """Resolves keys. Used on the event loop only."""

    def __init__(self, keys: PendingKeys, node: NodePort, clock: Clock) -> None:
        self._keys = keys
        self._node = node
        self._clock = clock

    async def owners(self, digests: Mapping[TypeKey, str]) -> dict[TypeKey, Owner]:
        """Return who owns these keys; those that nobody owns are in flight afterwards.

        Raises KeyInFlight, or KeyReused where an owner's body was another one than
        `digests` says; then none of the keys is in flight. While the store cannot be
        asked, a key that this node does not know is taken as free: ingest decides.
        """
        owners: dict[TypeKey, Owner] = {}
        begun: list[TypeKey] = []
        try:
            for key in digests:
                owner = self._keys.begin(key, self._clock.wall_ms())
                if owner is None:
                    begun.append(key)
                else:
                    owners[key] = owner
            for key, use in zip(begun, await self._ask(begun), strict=True):
                if use is not None:
                    owners[key] = Owner(use, "store", None)
            _check_digests(owners, digests)
        except BaseException:
            self._keys.cancel(begun)
            raise
        self._keys.cancel(key for key in begun if key in owners)
        return owners

    async def reach(self, owner: Owner, durability: Durability) -> None:
        """Wait until the jobs of an owner have reached a level; raise DurabilityUnmet
        where that cannot be waited for."""
        if _RANK[owner.durability] >= _RANK[durability]:
            return
        if durability != "store" or owner.end is None:
            raise DurabilityUnmet(
                f"the jobs of this key have reached {owner.durability} only; try again"
            )
        await self._node.stored(*owner.end)

    async def _ask(self, keys: list[TypeKey]) -> list[KeyUse | None]:
        if not keys:
            return []
        try:
            async with asyncio.timeout(KEYS_ASK_S):
                return await self._node.ask(lambda store: [store.key_use(*key) for key in keys])
        except (StoreUnavailable, TimeoutError):
            return [None] * len(keys)


def _check_digests(owners: Mapping[TypeKey, Owner], digests: Mapping[TypeKey, str]) -> None:
    for key, owner in owners.items():
        if owner.use.digest != digests[key]:
            raise KeyReused(
                "this Idempotency-Key came with another body before",
                extra={"key": key.key, "jobtype": key.type.partition("/")[2]},
            )
