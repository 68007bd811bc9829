"""NATS JetStream: a file stream that is a work queue, pulled by 500 and acknowledged one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import nats
import uvloop
from hits import hit
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from serving import DATA, ROLE, URL, TasksClient, serve

SUBJECT, STREAM, CONSUMER = "bench.jobs", "BENCH", "workers"
IN_FLIGHT, FETCH = 4096, 500


class Nats(TasksClient):
    package, batch = "nats-py", 10_000

    async def connect(self) -> None:
        self._stream = (await nats.connect(URL)).jetstream(publish_async_max_pending=IN_FLIGHT)

    def setup(self) -> None:
        self.wait(self._setup())

    async def _setup(self) -> None:
        work = RetentionPolicy.WORK_QUEUE
        stream = StreamConfig(
            name=STREAM, subjects=[SUBJECT], retention=work, storage=StorageType.FILE
        )
        await self._stream.add_stream(stream)
        consumer = ConsumerConfig(durable_name=CONSUMER, ack_wait=60, max_ack_pending=20_000)
        await self._stream.add_consumer(STREAM, consumer)

    def bulk_of(self, count: int, delay_s: int) -> None:
        assert not delay_s, "JetStream 2.9 has no deferred messages"
        self.wait(self._bulk(count))

    async def _bulk(self, count: int) -> None:
        for _ in range(count):
            await self._stream.publish_async(SUBJECT, DATA.encode())
        await self._stream.publish_async_completed()

    def one(self, data: str) -> None:
        self.wait(self._stream.publish(SUBJECT, data.encode()))

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        streams = [(await nats.connect(URL)).jetstream() for _ in range(count)]
        return [lambda stream=each: stream.publish(SUBJECT, DATA.encode()) for each in streams]


async def work(fetch: int) -> None:
    stream = (await nats.connect(URL)).jetstream()
    pulled = await stream.pull_subscribe(SUBJECT, CONSUMER, stream=STREAM)
    while True:
        try:
            messages = await pulled.fetch(fetch, timeout=30)
        except (TimeoutError, nats.errors.TimeoutError):
            continue
        for message in messages:
            hit(message.data)
            await message.ack()


if ROLE == "client":
    serve(Nats())
elif ROLE == "worker":
    uvloop.run(work(FETCH))
elif ROLE == "worker-one":  # fetching more waits for more
    uvloop.run(work(1))
