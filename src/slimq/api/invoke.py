"""`POST /handlers/{jobtype}/invoke`: run a handler once with the lines of the body, and show
what comes of it. Nothing is stored: not the jobs, nor those that they add."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.handlers import VERSION_MAX, find_version
from slimq.api.ports import NodePort
from slimq.api.query import Target
from slimq.api.render import View, bytes_member, json_response
from slimq.core.handler import Handler
from slimq.core.job import Ran, Result
from slimq.core.jobtype import EVERY_CLIENT, make_type
from slimq.core.limits import INVOKE_LINES_MAX, INVOKES_MAX, JSON_BODY_MAX, LINE_MAX
from slimq.core.lines import ChildLine, split_lines
from slimq.core.status import outcome_of
from slimq.errors import BadBody, LineTooLong, NotFound, OperatorError
from slimq.store.base import ControlStore


class InvokeRoute:
    """The endpoint."""

    def __init__(self, node: NodePort) -> None:
        self._node = node
        self._running = 0

    async def respond(self, request: Request) -> Response:
        given = query.parameters(request, ("client", "version"))
        target = query.target(request, given)
        if target.client == EVERY_CLIENT:
            raise query.bad("client", "whose jobs they would be")
        version = query.integer(given, "version", 1, VERSION_MAX)
        lines = _lines(await query.body(request, JSON_BODY_MAX))
        handler = await self._node.ask(lambda store: _serving(store, target, version))
        if self._running >= INVOKES_MAX:
            raise OperatorError("too many handlers are tried at a time; try again")
        self._running += 1
        started = time.monotonic()
        try:
            ran = await self._node.invoke(make_type(*target), handler, lines)
        finally:
            self._running -= 1
        return json_response(_view(handler, ran, int(1000 * (time.monotonic() - started))))


def _lines(body: bytes) -> list[bytes]:
    lines = split_lines(body)
    if not 1 <= len(lines) <= INVOKE_LINES_MAX:
        raise BadBody(f"the body has 1 to {INVOKE_LINES_MAX} lines, each a job")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_MAX:
            raise LineTooLong(f"line {number} has over {LINE_MAX} bytes", extra={"line": number})
    return lines


def _serving(store: ControlStore, target: Target, version: int | None) -> Handler:
    """Return the handler that serves a client: its own, or that for every client."""
    try:
        return find_version(store, target, version)
    except NotFound:
        return find_version(store, Target(EVERY_CLIENT, target.jobtype), version)


def _view(handler: Handler, ran: Ran, duration_ms: int) -> View:
    children = ran.children or [[] for _ in ran.results]
    pairs = zip(ran.results, children, strict=True)
    return {
        "client": handler.client,
        "jobtype": handler.jobtype,
        "version": handler.version,
        "lang": handler.lang,
        "duration_ms": duration_ms,
        "results": [_result_view(result, added) for result, added in pairs],
        **bytes_member("output", ran.output),
    }


def _result_view(result: Result, children: list[ChildLine]) -> View:
    return {
        "status": result.status,
        "outcome": outcome_of(result.status),
        **bytes_member("result", result.text),
        "error": result.error,
        "children": [{"jobtype": c.jobtype, **bytes_member("data", c.data)} for c in children],
    }
