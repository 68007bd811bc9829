"""PgQueuer drains jobs that do nothing: `peer_pgqueuer.py URL COUNT` prints jobs/s."""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.types import QueueExecutionMode

BATCH = 1000


async def main(url: str, count: int) -> float:
    connection = await asyncpg.connect(url)
    queue = PgQueuer.from_asyncpg_connection(connection)
    await queue.queries.install()

    @queue.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        pass

    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        await queue.queries.enqueue(["nothing"] * size, [b"x" * 99] * size, [0] * size)
    start = time.perf_counter()
    await queue.run(batch_size=BATCH, max_concurrent_tasks=2 * BATCH, mode=QueueExecutionMode.drain)
    return count / (time.perf_counter() - start)


print(asyncio.run(main(sys.argv[1], int(sys.argv[2]))))
