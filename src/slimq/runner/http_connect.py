"""Opens sockets to hosts: a name is resolved, every address judged, and the socket connected
to the very address that was judged."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from slimq.core.limits import (
    CONNECT_HEAD_START_S,
    HOST_NAMES_MAX,
    HOST_NAMES_S,
    RESOLVERS_MAX,
)
from slimq.runner.address import AddressPolicy
from slimq.runner.caller import NewSocket, Response, refused, unconnected, unopened
from slimq.runner.target import Resolve, resolve


class NoConnection(Exception):
    """`response` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.error)
        self.response = response


@contextmanager
def closed_unless_connected(opened: socket.socket) -> Iterator[None]:
    """Close a socket if what is tried with it fails, or is cancelled; what the system refuses
    is a NoConnection."""
    try:
        yield
    except OSError as error:
        opened.close()
        raise NoConnection(unconnected(error)) from None
    except BaseException:
        opened.close()
        raise


class Connector:
    """Used on one event loop. `open` may be cancelled."""

    def __init__(
        self,
        policy: AddressPolicy,
        new_socket: NewSocket = socket.socket,
        resolve: Resolve = resolve,
    ) -> None:
        self._policy = policy
        self._socket = new_socket
        self._names = _Names(resolve)

    async def open(self, host: str, port: int) -> socket.socket:
        """Return a connected socket; raises NoConnection."""
        addresses = await self._names.addresses(host)
        if not addresses:
            raise NoConnection(Response(0, error=f"cannot resolve {host}"))
        permitted = [address for address in addresses if self._policy.permits(address)]
        if not permitted:
            raise NoConnection(refused(addresses[0]))
        if len(permitted) == 1:
            return await self._connect(permitted[0], port)
        return await self._first(permitted, port)

    async def close(self) -> None:
        """Waits for lookups that are under way."""
        await self._names.close()

    async def _first(self, addresses: Sequence[str], port: int) -> socket.socket:
        """Return the socket of the address that answers first. They are tried in turn, each
        with a head start before the next one is tried beside it."""
        loop = asyncio.get_running_loop()
        tries: set[asyncio.Task[socket.socket]] = set()
        failure = NoConnection(Response(0))
        try:
            for number, address in enumerate(addresses, 1):
                tries.add(loop.create_task(self._connect(address, port)))
                head_start = CONNECT_HEAD_START_S if number < len(addresses) else None
                while tries:
                    done, _ = await asyncio.wait(
                        tries, timeout=head_start, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not done:
                        break
                    first = done.pop()
                    tries.discard(first)
                    error = first.exception()
                    if error is None:
                        return first.result()
                    if not isinstance(error, NoConnection):
                        raise error
                    failure = error
                    if head_start is not None:
                        break
            raise failure
        finally:
            for each in tries:
                each.cancel()
                each.add_done_callback(_drop)

    async def _connect(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            opened = self._socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        except OSError as error:
            raise NoConnection(unopened(error)) from None
        with closed_unless_connected(opened):
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await asyncio.get_running_loop().sock_connect(opened, (address, port))
        return opened


def _drop(unwanted: asyncio.Task[socket.socket]) -> None:
    """Close the socket of a try that came in too late."""
    if not unwanted.cancelled() and unwanted.exception() is None:
        unwanted.result().close()


class _Names:
    """Looks names up in threads, each once at a time, and remembers what it found."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(RESOLVERS_MAX, "resolve")
        self._found: dict[str, tuple[float, list[str]]] = {}
        self._asked: dict[str, asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        if numeric := _numeric(host):
            return numeric
        until, found = self._found.get(host, (0.0, []))
        if time.monotonic() < until:
            return found
        asked = self._asked.get(host)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[host] = loop.run_in_executor(self._threads, self._resolve, host)
            asked.add_done_callback(lambda _: self._asked.pop(host))
        found = await asyncio.shield(asked)  # others wait for it, too
        if found:
            if len(self._found) >= HOST_NAMES_MAX:
                self._found.clear()
            self._found[host] = time.monotonic() + HOST_NAMES_S, found
        return found

    async def close(self) -> None:
        if self._asked:
            await asyncio.wait(list(self._asked.values()))
        self._threads.shutdown()


def _numeric(host: str) -> list[str]:
    """Return the addresses of a host that is one, in whatever spelling the system takes."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []
    return [str(info[4][0]) for info in found]
