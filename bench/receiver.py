"""A bare uvloop + httptools server, as a process: `python bench/receiver.py`.

It is the target of the http handlers, and, because it does nothing else, the physical
limit of serving HTTP in Python. Prints its port when it listens.

    /single    200, what an http handler says of one job
    /batch     200, a line `200` for each line of the body
    /add       202, with as many bytes as a node answers one line with
    /timed     200, and remembers when the request came, in ns of CLOCK_MONOTONIC
    /times     200, a JSON array of those times; forgets them
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httptools
import uvloop

_ADDED = b'{"ok":true,"count":1,"ids":["0000000-00000000-0000"]}'
_ADD_HEADERS = (
    b"content-type: application/json\r\n"
    b"slimq-durability: journal\r\n"
    b"location: /jobs/0000000-00000000-0000\r\n"
)


def _answer(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n" % (status, headers, len(body))
    return head + body


_FIXED = {
    b"/single": _answer(b"200 OK", b""),
    b"/timed": _answer(b"200 OK", b""),
    b"/add": _answer(b"202 Accepted", _ADDED, _ADD_HEADERS),
}


class Receiving(asyncio.Protocol):
    """One connection; `times` is shared by all."""

    def __init__(self, times: list[int]) -> None:
        self._times = times
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._began_at = 0
        self._lines = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._began_at = time.monotonic_ns()
        self._path, self._lines = b"", 0

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._lines += body.count(b"\n")

    def on_message_complete(self) -> None:
        path = self._path.partition(b"?")[0]
        if path == b"/timed":
            self._times.append(self._began_at)
        self._transport.write(_FIXED.get(path) or self._made(path))

    def _made(self, path: bytes) -> bytes:
        if path == b"/batch":
            return _answer(b"200 OK", b"200\n" * self._lines)
        if path == b"/times":
            said = json.dumps(self._times).encode()
            self._times.clear()
            return _answer(b"200 OK", said)
        return _answer(b"404 Not Found", b"")


async def _serve() -> None:
    times: list[int] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Receiving(times), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


class Receiver(NamedTuple):
    """A receiver that runs."""

    port: int
    pid: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver in a process of its own."""
    command = [sys.executable, str(Path(__file__))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Receiver(int(process.stdout.readline()), process.pid)
        finally:
            process.terminate()


if __name__ == "__main__":
    try:
        uvloop.run(_serve())
    except KeyboardInterrupt:
        pass
