"""The runner of lang ``http``: a URL gets the jobs, its answers are their results.

libcurl makes the requests on the event loop; connections are kept alive. At most
`connections_per_host` requests are under way to one host and port: the others wait here,
where their timeout does not run yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pycurl

from slimq import __version__
from slimq.core.handler import Handler
from slimq.core.job import Batch, Ran
from slimq.core.limits import HOST_CONNECTIONS, IDLE_CONNECTIONS_MAX
from slimq.runner.address import AddressPolicy, Network
from slimq.runner.http_request import build_request
from slimq.runner.http_verdict import judge
from slimq.runner.signing import Signer
from slimq.runner.target import Resolve, check_target, resolve
from slimq.runner.transfer import Request, Response, Transfer
from slimq.system.clock import Clock


class HttpRunner:
    """Calls URLs (see `Runner`), on the loop of the first `run`.

    `secrets` sign every request (``whsec_...``; ValueError for a malformed one); `allow`
    are the networks that may be reached although they are not public; `ca_file` holds
    the certificate authorities (default: those of the machine).
    """

    lang = "http"

    def __init__(
        self,
        *,
        clock: Clock,
        secrets: Sequence[str] = (),
        allow: Sequence[Network] = (),
        connections_per_host: int = HOST_CONNECTIONS,
        ca_file: str | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        self._clock = clock
        self._signer = Signer(secrets)
        self._policy = AddressPolicy(allow)
        self._hosts = _Hosts(connections_per_host)
        self._ca_file = ca_file
        self._resolve = resolve
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, IDLE_CONNECTIONS_MAX)
        self._idle: list[Transfer] = []

    def check(self, handler: Handler) -> None:
        check_target(handler.body, self._policy, self._resolve)

    async def run(self, batch: Batch) -> Ran:
        options = batch.handler.options
        assert isinstance(batch.handler.body, str)
        async with self._hosts.slot(batch.handler.body):
            request = build_request(batch, self._signer, self._clock.wall_ms() // 1000)
            response = await self._exchange(request)
        single = options.batch_size == 1 and len(batch.jobs) == 1
        return judge(response, len(batch.jobs), single, options, self._clock.wall_ms())

    async def close(self) -> None:
        """Close all connections. May wait for name lookups that are still under way."""
        await self._multi.aclose()
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, request: Request) -> Response:
        transfer = self._take()
        try:
            transfer.prepare(request)
            await self._multi.add_handle(transfer.curl)
            response = transfer.response()
        except pycurl.error as error:
            response = transfer.failure(error)
        except BaseException:  # cancelled: the transfer is aborted, its connection closed
            transfer.close()
            raise
        transfer.forget()
        self._idle.append(transfer)
        return response

    def _take(self) -> Transfer:
        if self._idle:
            return self._idle.pop()
        return Transfer(self._policy, f"slimq/{__version__}", self._ca_file)


class _Hosts:
    """Counts the requests under way to each host and port, and lets the others wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._gates: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def slot(self, url: str) -> AsyncIterator[None]:
        host = urlsplit(url).netloc.lower()
        gate, users = self._gates.setdefault(host, (asyncio.Semaphore(self._most), []))
        users.append(None)
        try:
            async with gate:
                yield
        finally:
            users.pop()
            if not users:
                del self._gates[host]
