"""Callers: some connections in a closed loop on uvloop, or one that blocks.

They are as thin as Python allows, because they share two cores with the node.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import httptools
import uvloop

HOST = "127.0.0.1"
LINE_BYTES = 100
CALL_TIMEOUT_S = 60.0


@dataclass
class Calls:
    """What the callers saw. `latencies` are in seconds, from the first byte out to the
    answer complete; `seconds` is the time of all."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


class Answer(NamedTuple):
    status: int
    body: bytes


def lines(count: int, width: int = LINE_BYTES) -> bytes:
    """Return `count` lines of `width` bytes, each with its newline, no two alike."""
    return b"".join([b"%0*d\n" % (width - 1, number) for number in range(count)])


def add(jobtype: str, body: bytes, client: str = "main") -> bytes:
    """Return a request to `POST /add`."""
    return post(f"/add?jobtype={jobtype}&client={client}", body)


def post(target: str, body: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def for_seconds(request: bytes, seconds: float) -> Iterator[bytes]:
    """Yield a request until the time is over, from the first one on."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield request


def call_all(
    port: int, requests: Iterable[bytes], *, connections: int, expected: int = 202
) -> Calls:
    """Send all requests, each connection the next one when its last was answered. Raises
    RuntimeError for an answer with another status than the `expected` one."""
    return uvloop.run(_Callers(requests, expected).run(port, connections))


class _Callers:
    def __init__(self, requests: Iterable[bytes], expected: int) -> None:
        self.requests = iter(requests)
        self.expected = expected
        self.latencies: list[float] = []
        self.bad: set[int] = set()

    async def run(self, port: int, connections: int) -> Calls:
        """Connect all of them first: connecting is not measured."""
        loop = asyncio.get_running_loop()
        callers = [_Caller(self, loop) for _ in range(connections)]
        for caller in callers:
            await loop.create_connection(partial(_itself, caller), HOST, port)
        start = time.perf_counter()
        for caller in callers:
            caller.send()
        await asyncio.gather(*(caller.ended for caller in callers))
        seconds = time.perf_counter() - start
        if self.bad:
            raise RuntimeError(f"answered with status {sorted(self.bad)}, not {self.expected}")
        return Calls(self.latencies, seconds)


def _itself(caller: _Caller) -> _Caller:
    return caller


class _Caller(asyncio.Protocol):
    """One connection. The methods without a comment are called by the transport and the parser."""

    def __init__(self, callers: _Callers, loop: asyncio.AbstractEventLoop) -> None:
        self._callers = callers
        self._parser = httptools.HttpResponseParser(self)
        self._sent_at = 0.0
        self.ended: asyncio.Future[None] = loop.create_future()

    def send(self) -> None:
        """Send the next request, or end."""
        request = next(self._callers.requests, None)
        if request is None:
            self.ended.set_result(None)
            self.transport.close()
            return
        self._sent_at = time.perf_counter()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._callers.latencies.append(time.perf_counter() - self._sent_at)
        status = self._parser.get_status_code()
        if status != self._callers.expected:
            self._callers.bad.add(status)
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or RuntimeError("the connection was closed"))


class Wire:
    """One connection that blocks: for what is sent one by one."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=CALL_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._answers: deque[Answer] = deque()
        self._parts: list[bytes] = []

    def call(self, request: bytes) -> Answer:
        """Send a request; return its answer."""
        self._socket.sendall(request)
        while not self._answers:
            data = self._socket.recv(1 << 16)
            if not data:
                raise RuntimeError("the connection was closed")
            self._parser.feed_data(data)
        return self._answers.popleft()

    def timed(self, request: bytes, expected: int = 202) -> float:
        """Send a request; return the seconds until its answer. Raises RuntimeError."""
        start = time.perf_counter()
        answer = self.call(request)
        seconds = time.perf_counter() - start
        if answer.status != expected:
            raise RuntimeError(f"answered with {answer.status}: {answer.body[:200]!r}")
        return seconds

    def close(self) -> None:
        self._socket.close()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        body, self._parts = b"".join(self._parts), []
        self._answers.append(Answer(self._parser.get_status_code(), body))
