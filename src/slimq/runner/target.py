"""What may stand as the URL of an http handler."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from slimq.core.handler import bad_field
from slimq.core.limits import URL_MAX
from slimq.runner.address import AddressPolicy

Resolve = Callable[[str], list[str]]

# Printable ASCII. Other characters have more than one reading in a URL (circled digits
# are digits of an address to some); a backslash is a slash to some. Such names are
# written in punycode, such paths percent-encoded.
_PLAIN = re.compile(r"[!-\[\]-~]+")


def resolve(host: str) -> list[str]:
    """Return the addresses of a host name or literal; none when it does not resolve now."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(info[4][0]) for info in found]


def check_target(url: object, policy: AddressPolicy, resolve: Resolve = resolve) -> None:
    """Raise BadHandler when no request to `url` could ever be sent. Blocks: it resolves.

    A name that does not resolve now is accepted: it may later, and every connection is
    judged again. So is one with some public address: only those are connected to.
    """
    if not isinstance(url, str) or len(url) > URL_MAX or not _PLAIN.fullmatch(url):
        raise bad_field("body", f"a URL of at most {URL_MAX} printable ASCII characters")
    host = _check_parts(url)
    addresses = resolve(host)
    if addresses and not any(policy.permits(address) for address in addresses):
        raise bad_field(
            "body", "the host must have a public address, or one that setting http.allow names"
        )


def _check_parts(url: str) -> str:
    parts = _split(url)
    if parts.scheme not in ("http", "https"):
        raise bad_field("body", "the scheme must be http or https")
    if "@" in parts.netloc:
        raise bad_field("body", "a URL without user or password: handlers are shown to readers")
    if not parts.hostname or "%" in parts.hostname:
        raise bad_field("body", "a URL with a host, without percent signs or a zone in it")
    return parts.hostname.rstrip(".")  # curl knows "127.0.0.1." for an address


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        legal = parts.port is None or parts.port > 0
    except ValueError:
        legal = False
    if not legal:
        raise bad_field("body", "a URL with a well-formed host and port")
    return parts
