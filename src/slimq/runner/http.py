"""The runner of lang ``http``: a URL gets the jobs, its answers are their results.

At most `connections_per_host` requests are under way to one host and port: the others wait
here, where their timeout does not run yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from slimq.core.handler import Handler
from slimq.core.job import Batch, Ran
from slimq.core.limits import HOST_CONNECTIONS
from slimq.runner.address import AddressPolicy
from slimq.runner.caller import Caller
from slimq.runner.http_request import build_request
from slimq.runner.http_verdict import judge
from slimq.runner.signing import Signer
from slimq.runner.target import Resolve, check_target, resolve
from slimq.system.clock import Clock


class HttpRunner:
    """Calls URLs (see `Runner`), each by the first of `callers` that takes it. They keep to
    the same `policy`.

    `secrets` sign every request (``whsec_...``; ValueError for a malformed one).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        policy: AddressPolicy,
        callers: Sequence[Caller],
        secrets: Sequence[str] = (),
        connections_per_host: int = HOST_CONNECTIONS,
        resolve: Resolve = resolve,
    ) -> None:
        self._clock = clock
        self._policy = policy
        self._callers = callers
        self._signer = Signer(secrets)
        self._per_host = connections_per_host
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._resolve = resolve

    def check(self, handler: Handler) -> None:
        check_target(handler.body, self._policy, self._resolve)

    async def run(self, batch: Batch) -> Ran:
        options, url = batch.handler.options, batch.handler.body
        assert isinstance(url, str)
        caller = next(each for each in self._callers if each.takes(url))
        async with self._gate(url):
            request = build_request(batch, self._signer, self._clock.wall_ms() // 1000)
            response = await caller.call(request)
        single = options.batch_size == 1 and len(batch.jobs) == 1
        return judge(response, len(batch.jobs), single, options, self._clock.wall_ms())

    async def close(self) -> None:
        """Close all connections. May wait for name lookups that are still under way."""
        for caller in self._callers:
            await caller.close()

    def _gate(self, url: str) -> asyncio.Semaphore:
        """Return what lets so many requests to a host through. Who uses it keeps it alive."""
        host = _host(url)
        gate = self._gates.get(host)
        if gate is None:
            gate = self._gates[host] = asyncio.Semaphore(self._per_host)
        return gate


@lru_cache(1024)
def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()
