"""SAQ on Redis. It has no call for many jobs at once, so 100 tasks send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hits import hit
from saq import Queue
from serving import DATA, ROLE, URL, TasksClient, serve

SENDERS = 100


async def nothing(context: Any, *, line: str) -> None:
    hit(line)


def a_queue() -> Any:
    return Queue.from_url(URL, name="bench")


settings = {"queue": a_queue(), "functions": [nothing], "concurrency": 100}


class Saq(TasksClient):
    package = "saq"

    async def connect(self) -> None:
        self._queue = a_queue()
        await self._queue.connect()

    def bulk_of(self, count: int, delay_s: int) -> None:
        self.wait(self._bulk(count, {"scheduled": int(time.time()) + delay_s} if delay_s else {}))

    async def _bulk(self, count: int, more: dict[str, int]) -> None:
        numbers = iter(range(count))

        async def send() -> None:
            for _ in numbers:
                await self._queue.enqueue("nothing", line=DATA, ttl=-1, **more)

        await asyncio.gather(*(send() for _ in range(SENDERS)))

    def one(self, data: str) -> None:
        self.wait(self._queue.enqueue("nothing", line=data, ttl=-1))

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        return [lambda: self._queue.enqueue("nothing", line=DATA, ttl=-1)] * count


if ROLE == "client":
    serve(Saq())
