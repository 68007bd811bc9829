"""Celery on Redis, with late acks, so that a worker that dies loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery as App
from hits import hit
from serving import DATA, ROLE, URL, ThreadsClient, serve

app = App("bench", broker=URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_pool_limit=None,
    task_serializer="json",
)


@app.task(name="nothing")
def nothing(line: str) -> None:
    hit(line)


def a_producer() -> Any:
    return app.amqp.Producer(app.connection_for_write())


class Celery(ThreadsClient):
    package, batch = "celery", 100

    def __init__(self) -> None:
        self._producer = a_producer()

    def bulk_of(self, count: int, delay_s: int) -> None:
        more = {"countdown": delay_s} if delay_s else {}
        for _ in range(count):
            nothing.apply_async((DATA,), producer=self._producer, **more)

    def one(self, data: str) -> None:
        nothing.apply_async((data,), producer=self._producer)

    def caller(self) -> Callable[[], object]:
        producer = a_producer()
        return lambda: nothing.apply_async((DATA,), producer=producer)


if ROLE == "client":
    serve(Celery())
