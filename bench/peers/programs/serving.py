"""The side of a queue's clients: a process that does what the harness asks, and times it.

A question is a line of JSON on standard input, the answer one on standard output. Nothing but the
calls of the queue's own client library is in the times that it answers with.

    {"do": "setup"}                                          {"version": "1.2.3"}
    {"do": "bulk", "count": N, "seconds": S, "delay_s": D}   {"count": N, "seconds": S}
    {"do": "call", "callers": N, "seconds": S, "rate": R}    {"count": N, "seconds": S, "us": [...]}
    {"do": "probe", "seconds": S, "each_s": S}               {"count": N}
    {"do": "one"}, {"do": "settle"}                          {}

With a rate of 0 each caller sends the next job when its last was answered. With another one it is
sent when its time has come, and its microseconds count from then.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from hits import stamped

URL = os.environ["BENCH_URL"]
DATA = "x" * 99
ROLE = sys.argv[1] if len(sys.argv) > 1 else ""


def starts(caller: int, callers: int, seconds: float, rate: float) -> Iterator[tuple[float, float]]:
    """Yield when each job of a caller is to be sent, and how many seconds away that is."""
    begin = at = time.perf_counter()
    if rate:
        at += caller / rate
    while (now := time.perf_counter()) < begin + seconds and at < begin + seconds:
        yield (at, max(0.0, at - now)) if rate else (now, 0.0)
        if rate:
            at += callers / rate


class Client:
    """What is common. `batch` jobs are sent by one call of `bulk_of`, the fastest call that the
    documentation of the queue has."""

    package = ""
    batch = 1000

    def setup(self) -> None:
        """Make tables or streams, once for all clients."""

    def settle(self) -> None:
        """Wait until what was accepted is where workers find it."""

    def bulk_of(self, count: int, delay_s: int) -> None:
        raise NotImplementedError

    def one(self, data: str) -> None:
        raise NotImplementedError

    def call(self, callers: int, seconds: float, rate: float) -> tuple[float, list[float]]:
        """Send jobs by so many callers; return the seconds of all and those of each."""
        raise NotImplementedError

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        do = question.pop("do")
        if do == "setup":
            self.setup()
            return {"version": self.version()}
        if do == "bulk":
            return self.bulk_until(**question)
        if do == "call":
            seconds, each = self.call(**question)
            return {"count": len(each), "seconds": seconds, "us": [round(1e6 * s) for s in each]}
        if do == "probe":
            return {"count": self.probe(**question)}
        if do == "one":
            self.one(stamped())
        elif do == "settle":
            self.settle()
        return {}

    def probe(self, seconds: float, each_s: float) -> int:
        """Send jobs that say when they were sent, one after the other."""
        count = 0
        for _, wait in starts(0, 1, seconds, 1 / each_s):
            time.sleep(wait)
            self.one(stamped())
            count += 1
        return count

    def bulk_until(self, count: int, seconds: float, delay_s: int) -> dict[str, Any]:
        done, start = 0, time.perf_counter()
        while done < count and time.perf_counter() - start < seconds:
            size = min(self.batch, count - done)
            self.bulk_of(size, delay_s)
            done += size
        return {"count": done, "seconds": time.perf_counter() - start}


class ThreadsClient(Client):
    """A library that blocks: each caller is a thread."""

    def caller(self) -> Callable[[], object]:
        """Return what sends one job, for a thread of its own."""
        raise NotImplementedError

    def call(self, callers: int, seconds: float, rate: float) -> tuple[float, list[float]]:
        each: list[float] = []
        ready = threading.Barrier(callers + 1)

        def run(caller: int) -> None:
            send, mine = self.caller(), []
            ready.wait()
            for start, wait in starts(caller, callers, seconds, rate):
                if wait:
                    time.sleep(wait)
                send()
                mine.append(time.perf_counter() - start)
            each.extend(mine)

        threads = [threading.Thread(target=run, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start, each


class TasksClient(Client):
    """A library of asyncio: each caller is a task of one loop, which is uvloop's."""

    def __init__(self) -> None:
        self.loop = self.new_loop()
        self.wait(self.connect())

    def new_loop(self) -> asyncio.AbstractEventLoop:
        import uvloop  # not everywhere

        return uvloop.new_event_loop()

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(awaitable)

    async def connect(self) -> None:
        """Connect, before anything is measured."""

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        """Return what sends one job, for so many callers."""
        raise NotImplementedError

    def call(self, callers: int, seconds: float, rate: float) -> tuple[float, list[float]]:
        return self.wait(self._call(callers, seconds, rate))

    async def _call(self, count: int, seconds: float, rate: float) -> tuple[float, list[float]]:
        each: list[float] = []

        async def run(caller: int, send: Callable[[], Awaitable[object]]) -> None:
            for start, wait in starts(caller, count, seconds, rate):
                if wait:
                    await asyncio.sleep(wait)
                await send()
                each.append(time.perf_counter() - start)

        sends = await self.callers(count)
        begin = time.perf_counter()
        await asyncio.gather(*(run(caller, send) for caller, send in enumerate(sends)))
        return time.perf_counter() - begin, each


def serve(client: Client) -> None:
    """Answer until the input ends. What a library prints goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        out.write(json.dumps(client.answer(json.loads(line))) + "\n")
        out.flush()
