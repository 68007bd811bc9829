"""Changes of many jobs: one bounded transaction after the other, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable

from slimq.api.ports import NodePort
from slimq.core.limits import BULK_JOBS_MAX
from slimq.errors import StoreUnavailable
from slimq.store.base import ControlStore

Change = Callable[[ControlStore, int], int]


async def repeat(node: NodePort, change: Change, most: int) -> int:
    """Call ``change(store, limit)`` until it changes nothing, or `most` jobs are changed
    in all; return how many were.

    Raises StoreUnavailable, with the `count` of those that are changed already.
    """
    count = 0
    while count < most:
        limit = min(BULK_JOBS_MAX, most - count)
        try:
            changed = await _step(node, change, limit)
        except StoreUnavailable as error:
            error.extra["count"] = count
            raise
        if not changed:
            break
        count += changed
    return count


async def _step(node: NodePort, change: Change, limit: int) -> int:
    return await node.ask(lambda store: change(store, limit))
