"""Handlers: `GET|PUT|DELETE /handlers/{jobtype}`, their versions, rollback, and a try.

`?client=` says whose; ``*``, the default, is the handler for every client that has none
of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.handler_in import PARAMETERS, read_request
from slimq.api.ports import NodePort
from slimq.api.query import Target
from slimq.api.render import View, handler_view, json_response
from slimq.core.handler import Handler
from slimq.core.jobtype import EVERY_CLIENT
from slimq.core.language import FUNCTIONS
from slimq.errors import NotFound
from slimq.store.base import ControlStore

LIST_PARAMETERS = ("client", "jobtype", "after", "limit")
VERSION_MAX = 1_000_000_000


class Stored(NamedTuple):
    handler: Handler
    is_first: bool


class HandlerRoutes:
    """The endpoints."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def page(self, request: Request) -> Response:
        given = query.parameters(request, LIST_PARAMETERS)
        client, jobtype = given.get("client"), query.optional_name(given, "jobtype")
        if client not in (None, EVERY_CLIENT):
            query.optional_name(given, "client")
        after, limit = query.after(given), query.limit(given)
        handlers = await self._node.ask(_current)
        found = sorted(
            (key(handler), handler)
            for handler in handlers
            if client in (None, handler.client)
            and jobtype in (None, handler.jobtype)
            and key(handler) > after
        )
        shown = [handler_view(handler) for _, handler in found[:limit]]
        following = found[limit - 1][0] if len(found) > limit else None
        return json_response({"handlers": shown, "next": following})

    async def show(self, request: Request) -> Response:
        given = query.parameters(request, ("client", "version"))
        target = query.target(request, given, EVERY_CLIENT)
        version = query.integer(given, "version", 1, VERSION_MAX)
        handler = await self._node.ask(lambda store: find_version(store, target, version))
        return json_response(handler_view(handler, whole=True))

    async def put(self, request: Request) -> Response:
        given = query.parameters(request, PARAMETERS)
        target = query.target(request, given, EVERY_CLIENT)
        handler = await read_request(request, given, target)
        if handler.lang in FUNCTIONS:
            await self._node.try_out(handler)

        def put(store: ControlStore) -> Stored:
            self._node.check_handler(handler)
            is_first = not store.versions(*target)
            return Stored(store.put_handler(handler), is_first)

        stored = await self._node.ask(put)
        self._node.wake()
        view = {**handler_view(stored.handler), "warnings": []}
        return json_response(view, 201 if stored.is_first else 200)

    async def delete(self, request: Request) -> Response:
        target = _target(request)
        if not await self._node.ask(lambda store: store.delete_handler(*target)):
            raise _unknown(target)
        self._node.wake()
        return json_response({"ok": True})

    async def versions(self, request: Request) -> Response:
        target = _target(request)

        def ask(store: ControlStore) -> list[View]:
            current = _find(_current(store), target).version
            return [
                {**handler_view(handler), "current": handler.version == current}
                for handler in store.versions(*target)
            ]

        return json_response({"versions": await self._node.ask(ask)})

    async def rollback(self, request: Request) -> Response:
        given = query.parameters(request, ("client", "version"))
        target = query.target(request, given, EVERY_CLIENT)
        version = query.integer(given, "version", 1, VERSION_MAX)
        handler = await self._node.ask(lambda store: store.rollback_handler(*target, version))
        if handler is None:
            raise NotFound(
                f"{_words(target)} has no older version"
                if version is None
                else f"{_words(target)} has no version {version}"
            )
        self._node.wake()
        return json_response(handler_view(handler))


def key(handler: Handler) -> str:
    """Return what lists of handlers are sorted by, and page with."""
    return f"{handler.client}/{handler.jobtype}"


def _current(store: ControlStore) -> list[Handler]:
    return store.control().handlers


def _target(request: Request) -> Target:
    return query.target(request, query.parameters(request, ("client",)), EVERY_CLIENT)


def _find(handlers: list[Handler], target: Target) -> Handler:
    for handler in handlers:
        if (handler.client, handler.jobtype) == target:
            return handler
    raise _unknown(target)


def find_version(store: ControlStore, target: Target, version: int | None) -> Handler:
    """Return a version of a handler, the current one when none is named. Raises NotFound."""
    if version is None:
        return _find(_current(store), target)
    for handler in store.versions(*target):
        if handler.version == version:
            return handler
    raise NotFound(f"{_words(target)} has no version {version}")


def _words(target: Target) -> str:
    whose = "every client" if target.client == EVERY_CLIENT else f"client {target.client}"
    return f"the handler of {target.jobtype} for {whose}"


def _unknown(target: Target) -> NotFound:
    return NotFound(f"{_words(target)} does not exist")
