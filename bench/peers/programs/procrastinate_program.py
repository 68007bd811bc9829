"""Procrastinate on PostgreSQL, 20 jobs at a time in each worker; done jobs are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import procrastinate
from hits import hit
from serving import DATA, ROLE, URL, TasksClient, serve

CONNECTIONS = 32
connector = procrastinate.PsycopgConnector(conninfo=URL, max_size=CONNECTIONS)
app = procrastinate.App(connector=connector)


@app.task(name="nothing")
async def nothing(line: str) -> None:
    hit(line)


class Procrastinate(TasksClient):
    package = "procrastinate"

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()  # psycopg gains nothing by another one

    async def connect(self) -> None:
        await app.open_async()

    def setup(self) -> None:
        self.wait(app.schema_manager.apply_schema_async())

    def bulk_of(self, count: int, delay_s: int) -> None:
        task = nothing.configure(schedule_in={"seconds": delay_s}) if delay_s else nothing
        self.wait(task.batch_defer_async(*[{"line": DATA}] * count))

    def one(self, data: str) -> None:
        self.wait(nothing.defer_async(line=data))

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        return [lambda: nothing.defer_async(line=DATA)] * count


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=20, delete_jobs="successful")


if ROLE == "client":
    serve(Procrastinate())
elif ROLE == "worker":
    asyncio.run(work())
