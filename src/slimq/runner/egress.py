"""The way out of functions that may use the network: a proxy to public addresses, and no other.

The sandbox has a network of its own with nothing in it. In it the last step of the launch
listens on loopback, and hands that socket out to us; whoever connects there is served here, in
the network of the machine:

    function --> 127.0.0.1:3128 in the sandbox ==> Gate, in the node --> a public address

It is an HTTP proxy (``CONNECT host:port`` and ``GET http://host/``), which common clients use
by HTTP_PROXY and HTTPS_PROXY. A name is resolved here, every address judged, and the connection
made to the very address that was judged. The bytes are carried and never looked at.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from slimq.core.limits import (
    CONNECT_TIMEOUT_MS,
    EGRESS_CONNECTIONS_MAX,
    EGRESS_RESOLVERS,
    HEAD_MAX,
    HEADER_TIMEOUT_S,
)
from slimq.runner.address import AddressPolicy

PORT = 3128
_URL = f"http://127.0.0.1:{PORT}"
VARIABLES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _URL)
_CHUNK = 65_536
_END = b"\r\n\r\n"
_OWN_HEADERS = (b"proxy-", b"connection:", b"keep-alive:")


class _Refused(Exception):
    """An answer of the proxy's own: a status line without its version."""


class _Wish(NamedTuple):
    """Where a caller wants to go, and what is to be sent there first."""

    host: str
    port: int
    first: bytes


class Egress:
    """Opens gates to the addresses that a policy permits."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._resolvers = ThreadPoolExecutor(EGRESS_RESOLVERS, "egress")

    def open(self) -> Gate:
        """Return the gate of one sandbox. On the event loop; raises OSError."""
        return Gate(self)

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def connect(self, host: str, port: int) -> _Streams:
        """Return a connection to a host; raises _Refused."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise _Refused("502 Unknown host") from None
        permitted = [address for address in addresses if self._policy.permits(address)]
        if not permitted:
            raise _Refused("403 This address is not for functions")
        for address in permitted:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
                    return await asyncio.open_connection(address, port)
        raise _Refused("502 The host does not answer")

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Gate:
    """The proxy of one sandbox. `theirs` is the descriptor that it hands its socket out by."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._loop = asyncio.get_running_loop()
        self._ours, their_end = socket.socketpair()
        self._ours.setblocking(False)
        self.theirs = their_end.detach()
        self._loop.add_reader(self._ours, self._take)
        self._serving: asyncio.Task[None] | None = None
        self._carried: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """End every connection. The descriptor `theirs` is closed by whoever passed it on."""
        self._loop.remove_reader(self._ours)
        self._ours.close()
        for task in (self._serving, *self._carried):
            if task is not None:
                task.cancel()

    def _take(self) -> None:
        """Take the socket that the sandbox hands out; it can do so only once."""
        self._loop.remove_reader(self._ours)
        with suppress(OSError):
            _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1)
            if descriptors:
                listener = socket.socket(fileno=descriptors[0])
                listener.setblocking(False)
                self._serving = self._loop.create_task(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        with listener:
            while True:
                caller, _ = await self._loop.sock_accept(listener)
                if len(self._carried) >= EGRESS_CONNECTIONS_MAX:
                    caller.close()
                    continue
                task = self._loop.create_task(self._carry(caller))
                self._carried.add(task)
                task.add_done_callback(self._carried.discard)

    async def _carry(self, caller: socket.socket) -> None:
        """Serve one connection to its end."""
        reader, writer = await asyncio.open_connection(sock=caller, limit=HEAD_MAX)
        try:
            wish = _wish(await _head(reader))
            there, back = await self._egress.connect(wish.host, wish.port)
        except _Refused as error:
            writer.write(f"HTTP/1.1 {error}\r\nConnection: close\r\n\r\n".encode())
            await _closed(writer)
            return
        except asyncio.CancelledError:
            writer.close()
            raise
        try:
            if wish.first:
                back.write(wish.first)
            else:
                writer.write(b"HTTP/1.1 200 OK" + _END)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            back.close()
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            return await reader.readuntil(_END)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
        raise _Refused("400 Malformed request") from None


def _wish(head: bytes) -> _Wish:
    """Read the head of a request; raises _Refused."""
    line, _, fields = head.partition(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
        is_tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if is_tunnel else target)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _Refused("400 Malformed request") from None
    if (
        not host
        or not version.startswith("HTTP/1.")
        or parts.scheme != ("" if is_tunnel else "http")
    ):
        raise _Refused("400 Malformed request")
    if is_tunnel:
        return _Wish(host, port or 443, b"")
    path = target.partition("://")[2][len(parts.netloc) :]
    first = f"{method} {path if path.startswith('/') else '/' + path} HTTP/1.1\r\n"
    return _Wish(host, port or 80, first.encode() + _onward(fields))


def _onward(fields: bytes) -> bytes:
    """Return the header fields as the host gets them: one request a connection."""
    lines = [line for line in fields.split(b"\r\n") if line]
    kept = [line for line in lines if not line.lower().startswith(_OWN_HEADERS)]
    return b"\r\n".join([*kept, b"Connection: close"]) + _END


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry bytes until the source ends; the other direction may go on."""
    with suppress(OSError):
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
        sink.write_eof()


async def _closed(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()
