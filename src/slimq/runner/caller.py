"""What a caller of URLs is asked, and what it answers.

There are two: `http_plain` for ``http://``, `http_curl` for all else. They keep to the same bounds,
the same `AddressPolicy` and the same conformance suite; no outcome tells which one it was.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol

from slimq import __version__
from slimq.core.limits import ANSWER_HEAD_MAX

AGENT = f"slimq/{__version__}"
HEAD_OVER = f"the headers of the answer are over {ANSWER_HEAD_MAX} bytes"

ENDED = "the connection ended before the answer did"

NewSocket = Callable[[int, int, int], socket.socket]

# What the machine is short of, not what the target did.
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Request(NamedTuple):
    """A POST of `body` to `url` with `headers` (whole lines); `answer_max` bounds the
    bytes of the answer's body, `timeout_ms` all from connect to its last byte."""

    url: str
    headers: list[str]
    body: bytes
    timeout_ms: int
    answer_max: int


class Response(NamedTuple):
    """An answer, or, with `code` 0, the `error` there was instead. `slimq_status` and
    `retry_after` are the values of those headers (all of them, comma-joined)."""

    code: int
    body: bytes = b""
    slimq_status: str | None = None
    retry_after: str | None = None
    error: str = ""
    timed_out: bool = False
    short: bool = False  # this machine had no socket to give: nothing was sent


class Caller(Protocol):
    """Makes requests on the event loop, and keeps connections for the next ones.

    A request that a kept connection swallowed, because the target was just closing it, is
    sent again on a new one if not a byte of an answer came. The target may have seen it
    twice then, with the same ``Idempotency-Key``: delivery is at least once.
    """

    def takes(self, url: str) -> bool:
        """Return whether it calls this URL."""

    async def call(self, request: Request) -> Response:
        """Never raises for what the target does. Cancelled, it aborts the request and closes
        its connection."""

    async def close(self) -> None:
        """Close all connections. No call is under way."""


def refused(address: str) -> Response:
    said = f"address refused: {address} is not public, nor in setting http.allow"
    return Response(0, error=said)


def unopened(error: OSError) -> Response:
    short = error.errno in _SHORTAGES
    return Response(0, error=f"cannot open a socket: {error}", short=short)


def unconnected(error: OSError) -> Response:
    return Response(0, error=f"cannot connect: {os.strerror(error.errno or 0)}")


def body_over(answer_max: int) -> str:
    return f"the answer is over {answer_max} bytes"


def timed_out(timeout_ms: int) -> Response:
    return Response(0, error=f"no complete answer within {timeout_ms} ms", timed_out=True)
