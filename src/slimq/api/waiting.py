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
        self._waiting: list[tuple[Position, asyncio.Future[None]]] = []

    async def reached(self, position: Position, timeout_s: float) -> None:
        """Return when all before the position is safe. Raises TimeoutError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((position, future))
        await asyncio.wait_for(future, timeout_s)

    def reach(self, position: Position) -> bool:
        """Say how far the journal is safe; return whether someone waits for more."""
        waiting = [(wanted, future) for wanted, future in self._waiting if not future.done()]
        self._waiting = [each for each in waiting if each[0] > position]
        for wanted, future in waiting:
            if wanted <= position:
                future.set_result(None)
        return bool(self._waiting)
