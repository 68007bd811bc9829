"""Callers of queues with an HTTP API: plain protocols on keep-alive connections."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools
from serving import DATA, URL, TasksClient

PORT = urlsplit(URL).port or 80
JSON = "content-type: application/json\r\n"


def call(method: str, path: str, document: Any = None) -> Any:
    """Call an API once; return the document of its answer. Raises RuntimeError."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    body = None if document is None else json.dumps(document)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]!r}")
    return json.loads(said)


def post(target: str, body: bytes, headers: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One caller, who waits for each answer."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes) -> Awaitable[object]:
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 300:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(RuntimeError(f"answered with {status}"))


class HttpClient(TasksClient):
    """A queue with an HTTP API. `request` makes the request that adds some jobs."""

    async def connect(self) -> None:
        self._connection = await self._connected()

    def request(self, lines: Sequence[str], delay_s: int) -> bytes:
        raise NotImplementedError

    def send(self, request: bytes) -> None:
        self.wait(self._send(request))

    async def _send(self, request: bytes) -> None:
        await self._connection.send(request)

    def one(self, data: str) -> None:
        self.send(self.request([data], 0))

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        request = self.request([DATA], 0)
        made = [await self._connected() for _ in range(count)]
        return [lambda connection=each: connection.send(request) for each in made]

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", PORT))[1]
