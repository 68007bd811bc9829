"""How the node is: `/`, `/status`, `/healthz` and `/readyz`.

All answer while the store is down, and say so. Of ``node.status()`` this reads

    {"store": {"error": str | None}, "journal": {"error": str | None}, ...}

where an error is what is wrong now; everything is shown as it comes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from slimq import __version__
from slimq.api import query
from slimq.api.accept import Acceptor
from slimq.api.control import node_state
from slimq.api.ports import NodePort
from slimq.api.problem import TEXT_TYPE
from slimq.api.query import Target
from slimq.api.render import View, json_response, node_view
from slimq.api.type_views import Settings
from slimq.core.jobtype import split_type
from slimq.core.limits import LIST_MAX
from slimq.errors import NotAccepting, OperatorError, ShuttingDown, StoreUnavailable
from slimq.store.base import ControlStore

UNSERVED_MAX = 100  # types without handler that are listed
_UNSERVED_PAGES_MAX = 10  # pages of LIST_MAX types that are looked at for them
_PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>slimq</title>
<h1>slimq</h1>
<p>OK. This node is up.</p>
<ul>
<li><a href="/status">/status</a>: the node and its store</li>
<li><a href="/types">/types</a>: what waits and runs</li>
<li><a href="/jobs">/jobs</a>: the newest jobs</li>
<li><a href="/handlers">/handlers</a>: what runs them</li>
<li><a href="/metrics">/metrics</a>: counters for Prometheus</li>
<li><a href="/openapi.json">/openapi.json</a>: the whole API</li>
</ul>
</html>
"""
_PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_TEXT_HEADERS = {"content-type": TEXT_TYPE, "cache-control": "no-store"}


class StatusRoutes:
    """The endpoints."""

    def __init__(self, node: NodePort, acceptor: Acceptor) -> None:
        self._node = node
        self._acceptor = acceptor

    async def root(self, request: Request) -> Response:
        query.parameters(request)
        if "text/html" in request.headers.get("accept", ""):
            return Response(_PAGE, 200, _PAGE_HEADERS)
        return Response(b"OK", 200, _TEXT_HEADERS)

    async def status(self, request: Request) -> Response:
        query.parameters(request)
        view: View = {
            "sysid": self._node.sysid,
            "version": __version__,
            "state": node_state(self._node),
            "node": self._node.status(),
        }
        try:
            view |= await self._node.ask(_store_members)
        except StoreUnavailable as error:
            view |= {"store": {"up": False, "error": error.detail}}
        return json_response(view)

    async def health(self, request: Request) -> Response:
        query.parameters(request)
        problems = self._problems()
        status = "degraded" if problems else "ok"
        return json_response({"status": status, "problems": problems})

    async def ready(self, request: Request) -> Response:
        query.parameters(request)
        if self._node.quitting:
            raise ShuttingDown("this node is draining; ask another one")
        try:
            self._acceptor.check_open()
        except NotAccepting:
            raise
        except OperatorError as refusal:
            raise OperatorError(f"{refusal.title}: {refusal.detail}") from refusal
        return json_response({"status": "ready"})

    def _problems(self) -> list[str]:
        """Return what is not well, in words."""
        status = self._node.status()
        errors = {part: _error(status, part) for part in ("store", "journal")}
        try:
            self._acceptor.check_open()
        except NotAccepting:
            pass  # it is meant to be so
        except OperatorError as refusal:
            errors["journal"] = refusal.detail
        return [f"{part}: {error}" for part, error in errors.items() if error]


def _error(status: dict[str, Any], part: str) -> str | None:
    facts = status.get(part)
    return facts.get("error") if isinstance(facts, dict) else None


def _store_members(store: ControlStore) -> View:
    jobs = msgspec.structs.asdict(store.totals())
    size = {name: jobs.pop(name) for name in ("types", "bytes")}
    return {
        "store": {"up": True, "error": None, **size, **msgspec.structs.asdict(store.facts())},
        "jobs": jobs,
        "nodes": [node_view(node) for node in store.nodes()],
        "types_without_handler": _unserved(store),
    }


def _unserved(store: ControlStore) -> list[str]:
    """Return the first types whose waiting jobs no handler serves."""
    settings = Settings(store.control())
    unserved: list[str] = []
    after = ""
    for _ in range(_UNSERVED_PAGES_MAX):
        page = store.types(client=None, jobtype=None, after=after, limit=LIST_MAX)
        unserved += [
            each.type
            for each in page
            if each.waiting and settings.handler(Target(*split_type(each.type))) is None
        ]
        if len(page) < LIST_MAX or len(unserved) >= UNSERVED_MAX:
            break
        after = page[-1].type
    return unserved[:UNSERVED_MAX]
