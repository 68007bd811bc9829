"""slimq, by its HTTP API. Its jobs wait until they have a handler, which the worker defines:

    worker-http 1          one POST a job          worker-exec 1000       a command for each batch
    worker-http 100        one POST a batch        worker-python 1000     an uploaded function

Commands and functions cannot count, so their worker reads how many are done in the store from the
node's log, which costs the node nothing. That is later than where others are counted: they are
counted when the handler starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hits import hit
from http_callers import HttpClient, call, post
from http_handler import BATCH, SINGLE, handle
from serving import DATA, ROLE, serve

from slimq import __version__

POLL_S = 0.005
SED = ["sed", "s/^.*/200/"]
FUNCTION = "def handler(event, context): return None\n"


class Slimq(HttpClient):
    batch = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._requests: dict[tuple[int, int], bytes] = {}

    def version(self) -> str:
        return __version__

    def request(self, lines: Sequence[str], delay_s: int) -> bytes:
        delay = f"&delay={delay_s}s" if delay_s else ""
        body = "".join([f"{line}\n" for line in lines]).encode()
        return post(f"/add?jobtype=bench&client=main{delay}", body)

    def bulk_of(self, count: int, delay_s: int) -> None:
        self.send(self._request_of(count, delay_s))

    def _request_of(self, count: int, delay_s: int) -> bytes:
        """Return a request of equal lines: making one is not measured twice."""
        if (count, delay_s) not in self._requests:
            self._requests[count, delay_s] = self.request([DATA] * count, delay_s)
        return self._requests[count, delay_s]

    def settle(self) -> None:
        while call("GET", "/status")["node"]["journal"]["pending_bytes"]:
            time.sleep(POLL_S)


def define(lang: str, body: Any, batch_size: int) -> None:
    call(
        "PUT",
        "/handlers/bench",
        {"lang": lang, "body": body, "options": {"batch_size": batch_size}},
    )


def follow() -> None:
    """Count what the log says is done, from now on, at the times that it says."""
    apart = time.time_ns() - time.monotonic_ns()
    for event in _events(Path(os.environ["BENCH_LOG"])):
        if event["event"] == "jobs.completed":
            at = int(1e9 * datetime.fromisoformat(event["at"]).timestamp())
            hit(count=event["count"], at=at - apart)


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        hit(count=0)  # the time starts when the jobs may run
        kept = b""
        while True:
            kept += file.read()
            *lines, kept = kept.split(b"\n")
            yield from map(json.loads, lines)
            time.sleep(POLL_S)


def work(kind: str, batch_size: int) -> None:
    async def defined() -> None:
        define("http", SINGLE if batch_size == 1 else BATCH, batch_size)

    if kind == "worker-http":
        handle(defined)
    elif kind == "worker-exec":
        define("exec", SED, batch_size)
    elif kind == "worker-python":
        define("python", FUNCTION, batch_size)
    follow()


if ROLE == "client":
    serve(Slimq())
elif ROLE:
    work(ROLE, int(sys.argv[2]))
