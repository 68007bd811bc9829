"""The caller of ``http://`` URLs: httptools on connections of the event loop, kept alive.

It takes only URLs that have one reading: a name or address, a port, a path without dot
segments. All others are left to libcurl, which has its rules for them.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import NamedTuple

from slimq.core.limits import CONNECT_TIMEOUT_MS, IDLE_CONNECTION_S, IDLE_CONNECTIONS_MAX
from slimq.runner.caller import AGENT, Request, Response, timed_out
from slimq.runner.http_connect import Connector, NoConnection, closed_unless_connected
from slimq.runner.http_connection import Connection

_PORT_MAX = 65_535
_PATH = r"[A-Za-z0-9._~!$&'()*+,;=:@%-]"  # RFC 3986 3.3
_URL = re.compile(
    r"http://"
    r"(?P<host>[A-Za-z0-9._-]+|\[(?P<six>[0-9A-Fa-f:.]+)\])(?::(?P<port>[1-9][0-9]{0,4}))?"
    rf"(?P<path>(?:/(?!(?:\.|%2[eE]){{1,2}}(?:[/?#]|$)){_PATH}*)*)"
    rf"(?P<query>(?:\?(?:{_PATH}|[/?])*)?)"
    r"(?:#[!-~]*)?"
)


class Place(NamedTuple):
    """Where a URL leads; `start` is the request line and the headers that never change."""

    host: str
    port: int
    start: str


@lru_cache(1024)
def read_place(url: str) -> Place | None:
    """Return where a URL leads; None for one that has another form, or readings."""
    found = _URL.fullmatch(url)
    port = int((found and found["port"]) or 80)
    if found is None or port > _PORT_MAX:
        return None
    named = found["host"] if port == 80 else f"{found['host']}:{port}"
    target = (found["path"] or "/") + found["query"]
    start = f"POST {target} HTTP/1.1\r\nHost: {named}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n"
    return Place((found["six"] or found["host"]).lower(), port, start)


_Where = tuple[str, int]


class PlainCaller:
    """See `Caller`."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._idle = _Idle()
        self._open: set[Connection] = set()

    def takes(self, url: str) -> bool:
        return read_place(url) is not None

    async def call(self, request: Request) -> Response:
        place = read_place(request.url)
        assert place is not None, "a URL that this caller takes"
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + request.timeout_ms / 1000
        fields = "\r\n".join(request.headers)
        text = f"{place.start}{fields}\r\nContent-Length: {len(request.body)}\r\n\r\n"
        head, where = text.encode(), (place.host, place.port)
        kept = self._idle.take(where, now)
        if kept is not None:
            response = await self._ask(kept, where, head, request, deadline)
            if response is not None:
                return response
        try:
            fresh = await self._connect(place, request.timeout_ms, deadline)
        except NoConnection as reason:
            return reason.response
        response = await self._ask(fresh, where, head, request, deadline)
        return response or Response(0, error="the connection ended without an answer")

    async def close(self) -> None:
        for connection in self._open:
            connection.abort()
        if self._open:
            await asyncio.wait([connection.lost for connection in self._open])
        await self._connector.close()

    async def _ask(
        self, connection: Connection, where: _Where, head: bytes, request: Request, deadline: float
    ) -> Response | None:
        try:
            response = await connection.ask(head, request, deadline)
        except BaseException:  # cancelled
            connection.abort()
            raise
        if not connection.closed:
            self._idle.put(connection, where, asyncio.get_running_loop().time())
        return response

    async def _connect(self, place: Place, timeout_ms: int, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + CONNECT_TIMEOUT_MS / 1000)):
                opened = await self._connector.open(place.host, place.port)
        except TimeoutError:
            raise NoConnection(timed_out(min(timeout_ms, CONNECT_TIMEOUT_MS))) from None
        with closed_unless_connected(opened):
            _, connection = await loop.create_connection(Connection, sock=opened)
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._forget(connection))
        return connection

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.drop(connection)


class _Idle:
    """Connections that wait for a request."""

    def __init__(self) -> None:
        self._since: dict[Connection, tuple[float, _Where]] = {}  # the longest first
        self._at: dict[_Where, list[Connection]] = {}  # the shortest last

    def take(self, where: _Where, now: float) -> Connection | None:
        """Return the one that was used last: then the others may become too old."""
        while at := self._at.get(where):
            connection = at[-1]
            since, _ = self._since[connection]
            self.drop(connection)
            if now - since > IDLE_CONNECTION_S:
                connection.abort()
            if not connection.closed:
                return connection
        return None

    def put(self, connection: Connection, where: _Where, now: float) -> None:
        if len(self._since) >= IDLE_CONNECTIONS_MAX:
            longest = next(iter(self._since))
            self.drop(longest)
            longest.abort()
        self._since[connection] = now, where
        self._at.setdefault(where, []).append(connection)

    def drop(self, connection: Connection) -> None:
        """Forget one, if it is idle."""
        _, where = self._since.pop(connection, (0.0, None))
        if where is None:
            return
        at = self._at[where]
        at.remove(connection)
        if not at:
            del self._at[where]
