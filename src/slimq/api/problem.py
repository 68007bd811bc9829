"""Errors as answers: RFC 9457 `application/problem+json`, or plain text for `Accept: text/plain`.

    {"type": "/problems/bad-name", "title": ..., "status": 400, "detail": ..., <extra>}
    Malformed client or jobtype: jobtype is missing or malformed: ...

The text form is one line: title and detail.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from starlette.responses import Response

from slimq.errors import OperatorError, SlimqError

RETRY_AFTER_S = 1  # what is broken is probed every second
JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"
TEXT_TYPE = "text/plain; charset=utf-8"
_JSON_RANGES = ("application/json", "application/problem+json", "application/*")
_TEXT_RANGES = ("text/plain", "text/*")
_QUALITY = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)", re.ASCII | re.IGNORECASE)


Headers = tuple[tuple[str, str], ...]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response. `headers`, whose names are in lower case, are those that many answers
    share; besides them there are `location`, if there is one, and content-length."""

    status: int
    headers: Headers
    body: bytes
    location: str = ""


@lru_cache(maxsize=256)
def prefers_text(accept: str) -> bool:
    """Return whether an Accept header (RFC 9110 12.5.1) asks for text/plain above JSON.

    JSON wins a tie, because common clients send ``application/json, text/plain, */*``;
    ``*/*`` alone asks for nothing.
    """
    text = json = 0.0
    for part in accept.split(","):
        media, _, parameters = part.partition(";")
        name, quality = media.strip().lower(), _quality(parameters)
        if name in _TEXT_RANGES:
            text = max(text, quality)
        elif name in _JSON_RANGES:
            json = max(json, quality)
    return text > json


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        match = _QUALITY.fullmatch(parameter.strip())
        if match is not None:
            return min(1.0, float(match[1]))
    return 1.0


def document(error: SlimqError) -> dict[str, Any]:
    """Return the problem document of an error."""
    return {
        "type": f"/problems/{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.extra,
    }


def render(error: SlimqError, accept: str = "") -> Answer:
    """Return the answer to a request whose Accept header is `accept` and that met `error`.

    An error that the operator must end (503, 507) carries Retry-After.
    """
    headers = [(name.lower(), value) for name, value in error.headers.items()]
    if isinstance(error, OperatorError) and "Retry-After" not in error.headers:
        headers.append(("retry-after", str(RETRY_AFTER_S)))
    headers.append(("cache-control", "no-store"))
    if prefers_text(accept):
        headers += [("content-type", TEXT_TYPE), ("x-content-type-options", "nosniff")]
        text = f"{error.title}: {error.detail}\n"
        return Answer(error.status, tuple(headers), text.encode())
    headers.append(("content-type", PROBLEM_TYPE))
    return Answer(error.status, tuple(headers), msgspec.json.encode(document(error)) + b"\n")


def to_response(answer: Answer) -> Response:
    """Return an answer as the app sends it."""
    headers = dict(answer.headers)
    if answer.location:
        headers["location"] = answer.location
    return Response(answer.body, answer.status, headers)
