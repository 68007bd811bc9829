"""Calls of a node: one HTTP request, one answer."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import click

from slimq.errors import Refused, Unreachable
from slimq.system.log import MALFORMED_URL, redact_url

EXAMPLE_URL = "http://127.0.0.1:3001"
ANSWER_TIMEOUT_S = 90.0  # longer than the longest wait for a job
_OK = range(200, 300)
_ANY_BYTES = "surrogateescape"  # how Python holds words that are not UTF-8: the node refuses them
_WHERE = "elsewhere? say where: --url or SLIMQ_URL"
_NO_REASON = "no reason given: is this a slimq node?"

Query = Mapping[str, str | int | None]


class Caller:
    """Talks to the node at `url`. Every call makes a connection of its own: a command
    makes few, and an idle one may be closed under it.

    Calls raise Unreachable when there is no answer, and Refused, with the members of the
    problem document as `extra`, when the answer is an error.
    """

    def __init__(self, url: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.url = redact_url(url).rstrip("/")
        if self.url == MALFORMED_URL or self.url != url.rstrip("/"):
            raise click.UsageError(f"--url (SLIMQ_URL): write it like {EXAMPLE_URL}")
        self._parts = urlsplit(self.url)
        self._timeout_s = timeout_s

    def get(self, path: str, query: Query | None = None) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, query: Query | None = None) -> Any:
        return self.call("POST", path, query)

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON document that the node answers. Parameters that are None are
        left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        words = urlencode(given, errors=_ANY_BYTES)
        target = self._parts.path + path + (f"?{words}" if words else "")
        sent = {"Accept": "application/json", **(headers or {})}
        status, answer = self._exchange(method, target, body, sent)
        document = _decode(answer)
        if status not in _OK:
            raise _refused(status, document)
        if not isinstance(document, dict):
            raise Unreachable(f"what answers at {self.url} is not a slimq node; {_WHERE}")
        return document

    def send_json(self, method: str, path: str, query: Query, document: Any) -> Any:
        body = json.dumps(document).encode("ascii")
        return self.call(method, path, query, body, {"Content-Type": "application/json"})

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        connection = self._connection()
        sent = False
        try:
            connection.connect()
            sent = True
            try:
                connection.request(method, target, body, dict(headers))
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before the whole body was read: the answer says why
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise self._unreachable(error, sent) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)

    def _unreachable(self, error: Exception, sent: bool) -> Unreachable:
        """`sent` says that the node may have got the request, and acted on it."""
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self._timeout_s:.0f} s"
        else:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        advice = f"is the node running? start it with: slimq serve; {_WHERE}"
        return Unreachable(f"cannot reach {self.url} ({reason}); {advice}", extra={"sent": sent})


def part(name: str) -> str:
    """Return a name as a part of a path."""
    return quote(name, safe="", errors=_ANY_BYTES)


def _decode(answer: bytes) -> Any:
    """Return what an answer says; None if it is no JSON."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _refused(status: int, document: Any) -> Refused:
    problem = document if isinstance(document, dict) else {}
    title, detail = problem.get("title"), problem.get("detail")
    words = ": ".join(str(word) for word in (title, detail) if word)
    return Refused(f"{words or _NO_REASON} ({status})", extra=problem)
