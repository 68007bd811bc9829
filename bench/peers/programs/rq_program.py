"""RQ. Its SimpleWorker runs jobs in its own process; the usual one forks for each."""

from __future__ import annotations

from collections.abc import Callable

import redis
from hits import hit
from rq import Queue
from serving import DATA, ROLE, URL, ThreadsClient, serve


def nothing(line: str) -> None:
    hit(line)


def a_queue() -> Queue:
    return Queue("bench", connection=redis.Redis.from_url(URL))


class Rq(ThreadsClient):
    package = "rq"

    def __init__(self) -> None:
        self._queue = a_queue()

    def bulk_of(self, count: int, delay_s: int) -> None:
        assert not delay_s, "rq has no call for many deferred jobs"
        one = Queue.prepare_data("rq_program.nothing", (DATA,), result_ttl=0)
        self._queue.enqueue_many([one._replace(job_id=None) for _ in range(count)])

    def one(self, data: str) -> None:
        self._queue.enqueue("rq_program.nothing", data, result_ttl=0)

    def caller(self) -> Callable[[], object]:
        queue = a_queue()
        return lambda: queue.enqueue("rq_program.nothing", DATA, result_ttl=0)


if ROLE == "client":
    serve(Rq())
