"""Workly, by its HTTP API. Its queue is paused until a handler listens: a delivery that nobody
takes would wait for its retry."""

from __future__ import annotations

import json
from collections.abc import Sequence

from http_callers import JSON, HttpClient, call, post
from http_handler import SINGLE, handle
from serving import DATA, ROLE, serve

QUEUE = "/v1/queues/bench"
CONCURRENCY = 32  # as slimq's run.connections_per_host


class Workly(HttpClient):
    batch = 100  # its maximum

    def version(self) -> str:
        return ""  # that of the server says all

    def setup(self) -> None:
        call("PUT", QUEUE, {"max_concurrency": CONCURRENCY})
        call("POST", f"{QUEUE}/pause")

    def request(self, lines: Sequence[str], delay_s: int) -> bytes:
        more = {"delay_seconds": delay_s} if delay_s else {}
        tasks = [{"url": SINGLE, "body": line, **more} for line in lines]
        if len(tasks) == 1:
            return post(f"{QUEUE}/tasks", json.dumps(tasks[0]).encode(), JSON)
        return post(f"{QUEUE}/tasks:batch", json.dumps({"tasks": tasks}).encode(), JSON)

    def bulk_of(self, count: int, delay_s: int) -> None:
        self.send(self.request([DATA] * count, delay_s))


async def resume() -> None:
    call("POST", f"{QUEUE}/resume")


if ROLE == "client":
    serve(Workly())
elif ROLE == "worker":
    handle(resume)
