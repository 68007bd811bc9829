"""A real server on a free port, in a thread with a loop of its own, in front of a real journal."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from api_kit import FakeNode, JournalBench, Wire
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.config import Config
from uvicorn.server import Server as UvicornServer

from slimq.api.accept import Acceptor
from slimq.api.add import AddRoute
from slimq.api.jobs_in import JobsRoute
from slimq.api.keys_pending import PendingKeys
from slimq.api.server import Server
from slimq.api.surface import Deadlines
from slimq.core.jobid import Minter
from slimq.core.limits import PENDING_KEYS_MAX
from slimq.system.clock import SystemClock

SYSID = "testnode"
LONG = Deadlines()


class Served:
    """A running server, and everything behind it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: JournalBench) -> None:
        self.loop = loop
        self.journal = journal
        self.port = 0
        self.app: Starlette
        self.node: FakeNode
        self.acceptor: Acceptor
        self.server: Server | None = None  # None where another server serves the app
        self.app_calls: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.app_gate = asyncio.Event()

    def begin(self, work: Any) -> Future[Any]:
        """Begin to run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Any) -> Any:
        """Run a coroutine on the server's loop."""
        return self.begin(work).result(10)

    def call(self, work: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return work()

        return self.run(called())

    def until(self, true: Callable[[], object], seconds: float) -> bool:
        """Wait until something is true on the loop; return whether it became so."""

        async def wait() -> bool:
            end = self.loop.time() + seconds
            while not true():
                if self.loop.time() > end:
                    return False
                await asyncio.sleep(0.01)
            return True

        return bool(self.run(wait()))

    @contextmanager
    def wire(self, port: int | None = None) -> Iterator[Wire]:
        connection = socket.create_connection(("127.0.0.1", port or self.port), timeout=10)
        try:
            yield Wire(connection)
        finally:
            connection.close()


def make_app(served: Served) -> Starlette:
    async def echo(request: Request) -> Response:
        body = await request.body()
        served.app_calls.append((request.method, request.url.path, body, dict(request.headers)))
        return JSONResponse({"path": request.url.path, "size": len(body)})

    async def gated(request: Request) -> Response:
        await served.app_gate.wait()
        return JSONResponse({"opened": True})

    async def large(request: Request) -> Response:
        return Response(b"x" * (32 << 20))

    return Starlette(
        routes=[
            Route("/add", AddRoute(served.acceptor).respond, methods=["POST"]),
            Route("/jobs", JobsRoute(served.acceptor).respond, methods=["POST"]),
            Route("/echo", echo, methods=["GET", "POST", "PUT"]),
            Route("/gated", gated),
            Route("/large", large),
        ]
    )


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Serve]:
    """Start a server with options of its own; all are stopped at the end."""
    started: list[tuple[Served, Callable[[], Any]]] = []

    def start(
        *,
        surface: str = "connection",
        deadlines: Deadlines = LONG,
        body_max: int = 64 << 20,
        keys_max: int = PENDING_KEYS_MAX,
    ) -> Served:
        folder = tmp_path / f"journal{len(started)}"
        journal = JournalBench(loop, folder, body_max)
        served = Served(loop, journal)
        served.node = FakeNode(SYSID)

        async def begin() -> Callable[[], Any]:
            served.acceptor = Acceptor(
                minter=Minter(SYSID),
                submit=journal.submit,
                refusal=journal.refusal,
                new_body=journal.new_body,
                body_max=body_max,
                clock=SystemClock(),
                node=served.node,
                keys=PendingKeys(keys_max),
            )
            served.app_gate = asyncio.Event()
            app = served.app = make_app(served)
            if surface == "connection":
                served.server = Server(app, served.acceptor, deadlines=deadlines)
                served.port = await served.server.start("127.0.0.1", 0)
                return lambda: served.server.stop(1)
            return await start_uvicorn(app, served)

        started.append((served, served.run(begin())))
        return served

    yield start
    for served, stop in started:
        served.journal.release()
        served.run(stop())
        served.journal.close()


async def start_uvicorn(app: Starlette, served: Served) -> Callable[[], Any]:
    """Serve the app as any ASGI server would: here uvicorn with its own protocol."""
    listener = socket.create_server(("127.0.0.1", 0))
    served.port = listener.getsockname()[1]
    config = Config(app, http="httptools", lifespan="off", log_config=None, workers=1)
    server = UvicornServer(config)
    serving = asyncio.ensure_future(server._serve([listener]))

    async def stop() -> None:
        server.should_exit = True
        server.force_exit = True
        await serving

    while not server.started:
        await asyncio.sleep(0.01)
    return stop


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


@pytest.fixture(params=["connection", "app"])
def either(serve: Serve, request: pytest.FixtureRequest) -> Served:
    """The connection that answers `/add` itself, and the same route in any ASGI server."""
    return serve(surface=request.param)
