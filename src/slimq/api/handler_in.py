"""A handler as it comes in: a JSON document, or the source of a function as it is.

{"lang": ..., "body": ..., "options": {...}}       PUT /handlers/{jobtype}
a file, or a zip of several                        PUT /handlers/{jobtype}?lang=python
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from slimq.api import query
from slimq.api.query import Parameters, Target
from slimq.core.bundle import WASM_MARK, ZIP_MARK, read_zip, to_body
from slimq.core.handler import LANGS, Handler, bad_field, parse_options
from slimq.core.language import FUNCTIONS
from slimq.core.limits import ARGV_MAX, HANDLER_BODY_MAX, JSON_BODY_MAX, URL_MAX
from slimq.core.needs import needs_of

MEMBERS = ("lang", "body", "options")
PARAMETERS = ("client", "lang", "options")


async def read_request(request: Request, given: Parameters, target: Target) -> Handler:
    """Return the handler that a request describes, without a version. Raises BadHandler with
    the path of the field, BadBody, BadParameter, BodyTooLarge."""
    lang = query.choice(given, "lang", FUNCTIONS)
    if lang is None:
        if "options" in given:
            raise query.bad("options", "only with lang; else they are a member of the document")
        return read_handler(target, await query.json_object(request, JSON_BODY_MAX))
    source = await query.body(request, JSON_BODY_MAX)
    body = await asyncio.get_running_loop().run_in_executor(None, _read_source, source)
    options = _read_options(given.get("options", "{}"))
    return read_handler(target, {"lang": lang, "body": body, "options": options})


def _read_source(source: bytes) -> str | dict[str, Any]:
    """Return what was uploaded as the body of a function."""
    if source.startswith(ZIP_MARK):
        return to_body(read_zip(source))
    if source.startswith(WASM_MARK):
        return to_body({"main.wasm": source})
    try:
        return source.decode()
    except UnicodeDecodeError:
        raise bad_field("body", "source in UTF-8, or a zip") from None


def _read_options(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise query.bad("options", 'a JSON object, such as {"timeout":"5m"}') from error


def read_handler(target: Target, document: Mapping[str, Any]) -> Handler:
    """Return the handler that a document describes, without a version. Raises BadHandler
    with the path of the field."""
    for member in document:
        if member not in MEMBERS:
            raise bad_field(member[:64], f"no such member; there are {', '.join(MEMBERS)}")
    lang = document.get("lang")
    if lang not in LANGS:
        raise bad_field("lang", f"one of {', '.join(LANGS)}")
    body = _BODIES.get(lang, _source)(document.get("body"))
    written = document.get("options", {})
    if not isinstance(written, dict):
        raise bad_field("options", "an object")
    options = parse_options(lang, written)
    if lang in FUNCTIONS:
        needs_of(lang, body, options)
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


def _source(body: Any) -> Any:
    """What a function's files are is for `read_body` to say."""
    return dict(body) if isinstance(body, Mapping) else body


_BODIES: dict[str, Callable[[Any], Any]] = {"exec": _argv, "http": _url}
