"""The HTTP server of a node: binds, serves on the running loop, drains."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.server import ServerState

from slimq.api.accept import Acceptor
from slimq.api.add import AddIntake
from slimq.api.head import HeadReader, is_loopback
from slimq.api.protocol import AcceptProtocol
from slimq.api.surface import Deadlines, Surface
from slimq.core.limits import CONNECTIONS_MAX
from slimq.errors import ConfigError, PortInUse, StartError

BACKLOG = 2048  # connections that the kernel holds until they are accepted
_SWEEP_MAX_S = 1.0
_GOODBYE_S = 0.2  # what an aborted connection gets to be gone


class Server:
    """Serves `app`, and `POST /add` by itself. One start, one stop.

    It installs no signal handlers, and names neither itself nor the time in its answers.
    """

    def __init__(
        self,
        app: ASGI3Application,
        acceptor: Acceptor,
        *,
        allows_host: Callable[[str], bool] = is_loopback,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 -- immutable
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        heads, intake = HeadReader(allows_host), AddIntake(acceptor)
        self._surface = Surface(heads, intake, deadlines, connections_max)
        self._config = Config(
            app,
            http=AcceptProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            workers=1,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._listener: socket.socket
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_s = min(_SWEEP_MAX_S, min(deadlines) / 4)

    @property
    def connections(self) -> int:
        """How many callers are connected."""
        return len(self._state.connections)

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; return the port (0: the system chose one).

        Raises ConfigError for a host that others can reach, PortInUse, StartError.
        """
        return await self.serve_on(bind(host, port))

    async def serve_on(self, listener: socket.socket) -> int:
        """Serve on a socket that is bound and listens; return its port."""
        self._config.load()
        loop = asyncio.get_running_loop()
        self._listener = listener
        self._server = await loop.create_server(self._connection, sock=listener, backlog=BACKLOG)
        self._sweep = loop.call_later(self._sweep_s, self._sweep_all)
        bound: int = listener.getsockname()[1]
        return bound

    async def stop(self, grace_s: float) -> None:
        """Accept no more connections, end the idle ones, and let the others finish for at
        most `grace_s`; what is left then is cut off. No-op when it is not serving."""
        server, self._server = self._server, None
        if server is None:
            return
        self._surface.draining = True
        # Closing alone would leave callers waiting where another process has the socket, too.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        server.close()
        for connection in list(self._connections()):
            connection.shutdown()
        if not await self._gone(grace_s):
            for connection in list(self._connections()):
                connection.transport.abort()
            for task in list(self._state.tasks):
                task.cancel()
            await self._gone(_GOODBYE_S)
        if self._sweep is not None:
            self._sweep.cancel()
        await server.wait_closed()

    def _connection(self) -> AcceptProtocol:
        return AcceptProtocol(self._surface, self._config, self._state, {})

    def _connections(self) -> set[AcceptProtocol]:
        return self._state.connections  # type: ignore[return-value]

    def _sweep_all(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections()):
            connection.sweep(now)
        self._sweep = loop.call_later(self._sweep_s, self._sweep_all)

    async def _gone(self, timeout_s: float) -> bool:
        """Wait until no connection and no task is left; return whether that is so."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while self._state.connections or self._state.tasks:
            if loop.time() >= end:
                return False
            await asyncio.sleep(0.01)
        return True


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, and nobody else. Raises ConfigError for a host
    that others can reach, PortInUse, StartError."""
    listener = reserve(host, port)
    _listen(listener)
    return listener


def reserve(host: str, port: int) -> socket.socket:
    """Take an address without listening on it. Raises as `bind` does."""
    address = ipaddress.ip_address("127.0.0.1") if host == "localhost" else _address(host)
    if not address.is_loopback:
        raise ConfigError(
            f"{host} can be reached by others; without keys only loopback addresses may be bound"
        )
    if not 0 <= port <= 65535:
        raise ConfigError(f"a port is a number from 0 to 65535, not {port}")
    taken = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    with _closed_on_error(taken, host, port):
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((str(address), port))
    return taken


def listen_beside(reserved: socket.socket) -> socket.socket:
    """Return a socket that listens at a reserved address. There may be several: the kernel
    spreads connections over them, by SO_REUSEPORT. The address was taken without it, so that
    no other program is there already. Raises PortInUse, StartError."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    host, port, *_ = reserved.getsockname()
    listener = socket.socket(reserved.family)
    with _closed_on_error(listener, host, port):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    _listen(listener)
    return listener


def _listen(bound: socket.socket) -> None:
    host, port, *_ = bound.getsockname()
    with _closed_on_error(bound, host, port):
        bound.listen(BACKLOG)  # a port that is taken may show only here
    bound.setblocking(False)


@contextmanager
def _closed_on_error(new: socket.socket, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        new.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is taken by another process") from error
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise ConfigError(f"{host!r} is not an address; for example 127.0.0.1 or ::1") from error
