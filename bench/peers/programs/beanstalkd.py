"""beanstalkd, by its own protocol on plain sockets: a client library only costs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from hits import hit
from serving import DATA, ROLE, URL, TasksClient, serve

PORT = urlsplit(URL).port


def put(data: bytes, delay_s: int = 0) -> bytes:
    return b"put 1000 %d 120 %d\r\n%b\r\n" % (delay_s, len(data), data)


def connect() -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", PORT))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Connection(asyncio.Protocol):
    """One caller: a put is answered by one line."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self) -> Awaitable[object]:
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(PUT)
        return self._answered

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"INSERTED"), data
        self._answered.set_result(None)


PUT = put(DATA.encode())


class Beanstalkd(TasksClient):
    def __init__(self) -> None:
        super().__init__()
        self._socket = connect()
        self._answers = self._socket.makefile("rb")

    def version(self) -> str:
        return ""  # that of the server says all

    def bulk_of(self, count: int, delay_s: int) -> None:
        self._socket.sendall(put(DATA.encode(), delay_s) * count)
        for _ in range(count):
            assert self._answers.readline().startswith(b"INSERTED")

    def one(self, data: str) -> None:
        self._socket.sendall(put(data.encode()))
        assert self._answers.readline().startswith(b"INSERTED")

    async def callers(self, count: int) -> Sequence[Callable[[], Awaitable[object]]]:
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(Connection, "127.0.0.1", PORT) for _ in range(count)]
        return [protocol.send for _, protocol in made]


def work() -> None:
    """Reserve and delete one job at a time; the next reserve travels with a delete."""
    worker = connect()
    answers = worker.makefile("rb")
    said = b"reserve\r\n"
    while True:
        worker.sendall(said)
        line = answers.readline()
        if line.startswith(b"DELETED"):
            line = answers.readline()
        _, id_, size = line.split()
        hit(answers.read(int(size) + 2)[:-2])
        said = b"delete %b\r\nreserve\r\n" % id_


if ROLE == "client":
    serve(Beanstalkd())
elif ROLE == "worker":
    work()
