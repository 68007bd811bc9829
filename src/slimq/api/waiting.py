"""Callers that wait for what the engine does: a job to move, lines to be safely stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from slimq.journal.record import Position


class JobWatch:
    """Who waits for which job. Used on the event loop only."""

    def __init__(self) -> None:
        self._futures: dict[str, list[asyncio.Future[None]]] = {}

    def watch(self, id: str) -> asyncio.Future[None]:
        """Return a future that is done when the job moves. Cancel it after use."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(id, []).append(future)
        future.add_done_callback(lambda done: self._forget(id, done))
        return future

    def moved(self, ids: Iterable[str]) -> None:
        if not self._futures:
            return
        for id_ in ids:
            for future in self._futures.get(id_, ()):
                if not future.done():
                    future.set_result(None)

    def _forget(self, id_: str, future: asyncio.Future[None]) -> None:
        futures = self._futures.get(id_, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._futures.pop(id_, None)


class SafeWatch:
    """Who waits until the journal is safely stored up to a position. Used on the event
    loop only."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Position] = {}

    async def reached(self, position: Position, timeout_s: float) -> None:
        """Return when all before the position is safe. Raises TimeoutError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = position
        try:
            await asyncio.wait_for(future, timeout_s)
        finally:  # nothing may be reached for hours: who gave up must not be kept
            del self._waiting[future]

    def reach(self, position: Position) -> bool:
        """Say how far the journal is safe; return whether someone waits for more."""
        waits = False
        for future, wanted in self._waiting.items():
            if wanted > position:
                waits = True
            elif not future.done():
                future.set_result(None)
        return waits
