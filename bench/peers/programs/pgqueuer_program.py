"""PgQueuer on PostgreSQL by asyncpg, in batches of 100."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import asyncpg
import uvloop
from hits import hit
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from serving import DATA, ROLE, URL, TasksClient, serve

BATCH = 100
CONNECTIONS = 32  # of one client


class Pgqueuer(TasksClient):
    package = "pgqueuer"

    async def connect(self) -> None:
        self._queries = Queries(AsyncpgDriver(await asyncpg.connect(URL)))

    def setup(self) -> None:
        self.wait(self._queries.install())

    def bulk_of(self, count: int, delay_s: int) -> None:
        after = {"execute_after": [timedelta(seconds=delay_s)] * count} if delay_s else {}
        sent = self._queries.enqueue(
            ["nothing"] * count, [DATA.encode()] * count, [0] * count, **after
        )
        self.wait(sent)

    def one(self, data: str) -> None:
        self.wait(self._queries.enqueue("nothing", data.encode()))

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        size = min(count, CONNECTIONS)
        pool = await asyncpg.create_pool(URL, min_size=size, max_size=size)
        queries = Queries(AsyncpgPoolDriver(pool))
        return [lambda: queries.enqueue("nothing", DATA.encode())] * count


async def work() -> None:
    queue = PgQueuer.from_asyncpg_connection(await asyncpg.connect(URL))

    @queue.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        hit(job.payload or b"")

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=30))


if ROLE == "client":
    serve(Pgqueuer())
elif ROLE == "worker":
    uvloop.run(work())
