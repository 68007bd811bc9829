"""`/start`, `/stop` and `/quit`, by GET and POST: the engine resumed, suspended, drained.

GET with an effect is easy to type and easy to trick a browser into; what a browser fetches
on its own, ahead of the user, or for a page of another site, is refused.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.ports import NodePort
from slimq.api.render import json_response
from slimq.errors import Forbidden

_PREFETCH_HEADERS = ("sec-purpose", "purpose", "x-purpose", "x-moz")
_PREFETCH_WORDS = ("prefetch", "prerender", "preview")


class ControlRoutes:
    """The endpoints."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def start(self, request: Request) -> Response:
        _check(request)
        await self._node.start()
        return self._answer()

    async def stop(self, request: Request) -> Response:
        _check(request)
        await self._node.stop()
        return self._answer()

    async def quit(self, request: Request) -> Response:
        _check(request)
        self._node.quit()
        return self._answer()

    def _answer(self) -> Response:
        return json_response({"ok": True, "state": node_state(self._node)})


def _check(request: Request) -> None:
    query.parameters(request)
    refuse_browsers_guess(request)


def node_state(node: NodePort) -> str:
    if node.quitting:
        return "quitting"
    return "stopped" if node.stopped else "running"


def refuse_browsers_guess(request: Request) -> None:
    """Raise Forbidden for what no user asked for: a prefetch, or a call of another site."""
    for name in _PREFETCH_HEADERS:
        purpose = request.headers.get(name, "").lower()
        if any(word in purpose for word in _PREFETCH_WORDS):
            raise Forbidden("this route has an effect: it may not be prefetched")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("a page of another site may not call: see Sec-Fetch-Site")
