"""Handlers: `GET|PUT|DELETE /handlers/{jobtype}`, their versions, and rollback.

`?client=` says whose; ``*``, the default, is the handler for every client that has none
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.ports import NodePort
from slimq.api.query import Target
from slimq.api.render import View, handler_view, json_response
from slimq.core.bundle import entry_of, read_body
from slimq.core.handler import FUNCTIONS, LANGS, Handler, bad_field, parse_options
from slimq.core.jobtype import EVERY_CLIENT
from slimq.core.limits import ARGV_MAX, HANDLER_BODY_MAX, JSON_BODY_MAX, URL_MAX
from slimq.errors import NotFound
from slimq.store.base import ControlStore

MEMBERS = ("lang", "body", "options")
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
        target = _target(request)
        handlers = await self._node.ask(_current)
        return json_response(handler_view(_find(handlers, target)))

    async def put(self, request: Request) -> Response:
        target = _target(request)
        handler = read_handler(target, await query.json_object(request, JSON_BODY_MAX))

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


def read_handler(target: Target, document: Mapping[str, Any]) -> Handler:
    """Return the handler that a document describes, without a version. Raises BadHandler
    with the path of the field."""
    for member in document:
        if member not in MEMBERS:
            raise bad_field(member[:64], f"no such member; there are {', '.join(MEMBERS)}")
    lang = document.get("lang")
    if lang not in LANGS:
        raise bad_field("lang", f"one of {', '.join(LANGS)}")
    body = _BODIES[lang](document.get("body"))
    written = document.get("options", {})
    if not isinstance(written, dict):
        raise bad_field("options", "an object")
    options = parse_options(lang, written)
    if lang in FUNCTIONS:
        entry_of(read_body(body), options.handler)
    return Handler(
        client=target.client,
        jobtype=target.jobtype,
        version=0,
        lang=lang,
        body=body,
        options=options,
        written=written,
    )


def _argv(body: Any) -> list[str]:
    legal = isinstance(body, list) and 1 <= len(body) <= ARGV_MAX
    if not legal or not all(isinstance(word, str) and "\0" not in word for word in body):
        rule = f"the 1 to {ARGV_MAX} words of a command, for example"
        raise bad_field("body", f'{rule} ["sha256sum", "--"]; no shell reads them')
    if not body[0]:
        raise bad_field("body[0]", "the command has a name")
    if sum(len(word.encode()) for word in body) > HANDLER_BODY_MAX:
        raise bad_field("body", f"at most {HANDLER_BODY_MAX} bytes")
    return list(body)


def _url(body: Any) -> str:
    if not isinstance(body, str) or not body:
        raise bad_field("body", "a URL, for example https://example.com/hook")
    if len(body.encode()) > URL_MAX:
        raise bad_field("body", f"a URL has at most {URL_MAX} bytes")
    return body


def _source(body: Any) -> str | dict[str, Any]:
    read_body(body)
    return body if isinstance(body, str) else dict(body)


_BODIES: dict[str, Callable[[Any], Any]] = {"exec": _argv, "http": _url, "python": _source}


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


def _words(target: Target) -> str:
    whose = "every client" if target.client == EVERY_CLIENT else f"client {target.client}"
    return f"the handler of {target.jobtype} for {whose}"


def _unknown(target: Target) -> NotFound:
    return NotFound(f"{_words(target)} does not exist")
