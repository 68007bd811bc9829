"""The handler of queues that call URLs: a bare server that counts the lines that it gets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import uvloop
from hits import STAMP, hit

PORT = int(os.environ.get("BENCH_HANDLER_PORT", "0"))
SINGLE, BATCH = f"http://127.0.0.1:{PORT}/single", f"http://127.0.0.1:{PORT}/batch"


class Handling(asyncio.Protocol):
    """One connection. A body is one job, or at /batch a line for each."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        said, count = b"", 1
        if self._path == b"/batch":
            count = self._body.count(b"\n")
            said = b"200\n" * count
        stamped = [line for line in self._body.split(b"\n") if line.startswith(STAMP.encode())]
        hit(count=count - len(stamped))
        for line in stamped:
            hit(line)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said)
        self._transport.write(head + said)


async def _serve(ready: Callable[[], Awaitable[None]]) -> None:
    server = await asyncio.get_running_loop().create_server(Handling, "127.0.0.1", PORT)
    async with server:
        await ready()
        await server.serve_forever()


def handle(ready: Callable[[], Awaitable[None]]) -> None:
    """Serve until the process is ended; `ready` is run when calls are taken."""
    uvloop.run(_serve(ready))
