"""`GET /nodes`: all nodes of the store, as they said of themselves, and whether they live."""

from __future__ import annotations

from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.ports import NodePort
from slimq.api.render import View, json_response, time_text
from slimq.core.limits import LEASE_MS, RENEW_MS, SWEEP_MS
from slimq.store.base import ControlStore, Node

ABOUT = (
    "version",
    "roles",
    "host",
    "url",
    "worker",
    "pid",
    "data",
    "journal_pending_bytes",
    "clock_skew_ms",
)


class Life(StrEnum):
    """Whether a node lives, as far as the others know."""

    ALIVE = "alive"
    SILENT = "silent"  # it missed a beat, and may hold leases still
    DEAD = "dead"  # its leases are over: others run its jobs


def life_of(silent_ms: int) -> Life:
    """Return how a node is that said nothing for so long. A beat may be as late as a sweep."""
    if silent_ms >= LEASE_MS:
        return Life.DEAD
    return Life.SILENT if silent_ms > RENEW_MS + SWEEP_MS else Life.ALIVE


def node_item(node: Node, now: int) -> View:
    """Return a node as `GET /nodes` lists it. What it did not say is null: it may be of
    another version."""
    silent_ms = max(0, now - node.seen_at)
    return {
        "sysid": node.sysid,
        "state": life_of(silent_ms).value,
        "silent_ms": silent_ms,
        "started_at": time_text(node.started_at),
        "seen_at": time_text(node.seen_at),
        **{name: node.about.get(name) for name in ABOUT},
    }


class NodeRoutes:
    """The endpoint."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def list_(self, request: Request) -> Response:
        query.parameters(request)

        def ask(store: ControlStore) -> tuple[list[Node], int]:
            return store.nodes(), store.now()

        nodes, now = await self._node.ask(ask)
        nodes.sort(key=lambda node: (node.started_at, node.sysid))
        return json_response({"nodes": [node_item(node, now) for node in nodes]})
