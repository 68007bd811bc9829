"""Dramatiq on Redis. It has no call for many jobs at once."""

from __future__ import annotations

from collections.abc import Callable

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from hits import hit
from serving import DATA, ROLE, URL, ThreadsClient, serve

dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor(max_retries=3)
def nothing(line: str) -> None:
    hit(line)


class Dramatiq(ThreadsClient):
    package, batch = "dramatiq", 100

    def bulk_of(self, count: int, delay_s: int) -> None:
        for _ in range(count):
            if delay_s:
                nothing.send_with_options(args=(DATA,), delay=1000 * delay_s)
            else:
                nothing.send(DATA)

    def one(self, data: str) -> None:
        nothing.send(data)

    def caller(self) -> Callable[[], object]:
        return lambda: nothing.send(DATA)


if ROLE == "client":
    serve(Dramatiq())
