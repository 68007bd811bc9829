"""Procrastinate drains jobs that do nothing: `peer_procrastinate.py URL COUNT` prints jobs/s."""

from __future__ import annotations

import asyncio
import sys
import time

import procrastinate

CONCURRENCY = 32
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1]))


@app.task(name="nothing", queue="bench")
async def nothing(line: str) -> None:
    pass


async def main(count: int) -> float:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, count, 1000):
            size = min(1000, count - first)
            await nothing.batch_defer_async(*[{"line": "x" * 99} for _ in range(size)])
        start = time.perf_counter()
        await app.run_worker_async(
            wait=False, concurrency=CONCURRENCY, install_signal_handlers=False
        )
        return count / (time.perf_counter() - start)


print(asyncio.run(main(int(sys.argv[2]))))
