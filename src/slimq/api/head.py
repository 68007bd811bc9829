"""The head of a request: framed so strictly that no two readers can differ about it.

    request-line CRLF *( field-line CRLF ) CRLF

RFC 9112 lets a server repair much of a malformed head; every repair is a chance for
request smuggling. Here nothing is repaired: what is not plainly legal is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from slimq.core.limits import HEAD_MAX, HEADER_COUNT_MAX, REQUEST_LINE_MAX
from slimq.errors import CallerError, Forbidden, HeaderTooLarge, SlimqError, WrongMethod

CHUNKED = -1
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
END = b"\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"+) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_FIELD = re.compile(rb"([^:\r\n]++):([^\r\n]*+)\r\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_BARE_SO_FAR = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)

_ONCE = frozenset(
    {
        b"host",
        b"content-length",
        b"content-type",
        b"transfer-encoding",
        b"origin",
        b"sec-fetch-site",
        b"idempotency-key",
    }
)
# What the app must not see: the body reaches it whole, with its length, on this connection.
_HOP = frozenset({b"transfer-encoding", b"content-length", b"expect", b"upgrade"})
_UNCACHED = (b"idempotency-key", b"traceparent", b"authorization")
_CACHED_HEAD_MAX = 2048
_CACHED_HEADS_MAX = 512


class Head(msgspec.Struct, frozen=True):
    """A legal head. `length` is that of the body, or CHUNKED; `fields` has lower-case names."""

    method: str
    target: bytes  # origin form: path and query
    path: bytes
    query: bytes
    minor: int  # HTTP/1.x
    keep_alive: bool
    expects: bool  # the caller waits for 100 Continue before it sends the body
    length: int
    accept: str
    fields: dict[bytes, bytes]
    raw: bytes

    def for_app(self, length: int) -> bytes:
        """Return the head as the app's parser gets it: with the length of the whole body,
        and without what concerned only the way here."""
        lines = [b"%b %b HTTP/1.%d" % (self.method.encode(), self.target, self.minor)]
        start = self.raw.index(b"\r\n") + 2
        lines += [
            name + b":" + value
            for name, value in _FIELD.findall(self.raw, start)
            if name.lower() not in _HOP
        ]
        if length or self.length:
            lines.append(b"content-length: %d" % length)
        return b"\r\n".join(lines) + END


def is_loopback(host: str) -> bool:
    """Return whether a Host header names this machine. Any other name is how a web page
    whose DNS entry was turned to 127.0.0.1 (DNS rebinding) would call."""
    return _LOOPBACK.fullmatch(host) is not None


class HeadReader:
    """Reads heads; `allows_host` says which Host headers are answered.

    What a head means depends on its bytes alone, so the heads of busy callers, who send
    the same one again and again, are read once and remembered.
    """

    def __init__(self, allows_host: Callable[[str], bool] = is_loopback) -> None:
        self._allows_host = allows_host
        self._heads: dict[bytes, Head] = {}

    def read(self, raw: bytes) -> Head:
        """Return the head of `raw`, which ends with its first empty line.

        Raises CallerError (400), Forbidden (403), WrongMethod (405), HeaderTooLarge (431).
        """
        head = self._heads.get(raw)
        if head is not None:
            return head
        head = _parse(raw)
        self._guard(head)
        if len(raw) <= _CACHED_HEAD_MAX and not any(name in head.fields for name in _UNCACHED):
            if len(self._heads) >= _CACHED_HEADS_MAX:
                self._heads.clear()
            self._heads[raw] = head
        return head

    def _guard(self, head: Head) -> None:
        """Refuse what only a browser that visits somebody else's page would send.

        Nothing else stops such a page: there are no keys, and a "simple" POST needs no
        preflight (https://fetch.spec.whatwg.org/#cors-safelisted-method).
        """
        host = head.fields[b"host"].decode("ascii")
        if not self._allows_host(host):
            raise Forbidden("the Host header must name this machine: localhost, 127.0.0.1 or [::1]")
        origin = head.fields.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != host.lower().encode():
            raise Forbidden("a page of another origin may not call: Origin and Host differ")
        if head.fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Forbidden("a page of another site may not call: see Sec-Fetch-Site")


def check_unfinished(buffer: bytes, start: int) -> None:
    """Raise what is wrong already with a head whose end has not arrived; `start` is how
    far it was checked before."""
    if len(buffer) > HEAD_MAX:
        raise _head_too_large()
    if len(buffer) > REQUEST_LINE_MAX and b"\r\n" not in buffer[: REQUEST_LINE_MAX + 2]:
        raise _line_too_large()
    since = max(0, start - 1)
    if _BARE_SO_FAR.search(buffer, since) or _CONTROL.search(buffer, since):
        raise CallerError(_fault(buffer))


def accept_of(raw: bytes) -> str:
    """Return the Accept header of a head that may be malformed."""
    match = re.search(rb"\r\naccept:([^\r\n]*)", raw, re.IGNORECASE)
    return match[1].decode("latin-1") if match else ""


def _parse(raw: bytes) -> Head:
    if len(raw) > HEAD_MAX:
        raise _head_too_large()
    line = _REQUEST_LINE.match(raw)
    if raw.find(b"\r\n") > REQUEST_LINE_MAX:
        raise _line_too_large()
    if line is None or _FIELDS.fullmatch(raw, line.end()) is None:
        raise CallerError(_fault(raw))
    method = line[1].decode("ascii")
    fields = _fields(raw, line.end())
    minor = int(line[3])
    target = _origin_form(line[2], fields[b"host"])
    path, _, query = target.partition(b"?")
    connection = [token.strip() for token in fields.get(b"connection", b"").lower().split(b",")]
    head = Head(
        method=method,
        target=target,
        path=path,
        query=query,
        minor=minor,
        keep_alive=minor == 1 and b"close" not in connection,
        expects=minor == 1 and fields.get(b"expect", b"").lower() == b"100-continue",
        length=_length(fields, minor),
        accept=fields.get(b"accept", b"").decode("latin-1"),
        fields=fields,
        raw=raw,
    )
    if method not in METHODS:
        allow = ", ".join(METHODS)
        raise WrongMethod(f"there is no route for this method; {allow}", headers={"Allow": allow})
    return head


def _fields(raw: bytes, start: int) -> dict[bytes, bytes]:
    pairs = _FIELD.findall(raw, start)
    if len(pairs) > HEADER_COUNT_MAX:
        raise HeaderTooLarge(f"a request has at most {HEADER_COUNT_MAX} header fields")
    fields: dict[bytes, bytes] = {}
    for written, value in pairs:
        name, text = written.lower(), value.strip(b" \t")
        if name not in fields:
            fields[name] = text
        elif name in _ONCE:
            raise CallerError(f"the header {name.decode('ascii')} must not be repeated")
        else:
            fields[name] += b", " + text
    if _HOST.fullmatch(fields.get(b"host", b"")) is None:
        raise CallerError("a request needs one Host header: a name or address, and a port")
    return fields


def _origin_form(target: bytes, host: bytes) -> bytes:
    """Return path and query of a request target; RFC 9112 3.2 wants the absolute form
    understood, too. There it must agree with Host."""
    if target[:7].lower() == b"http://":
        authority, slash, rest = target[7:].partition(b"/")
        if authority.lower() != host.lower():
            raise CallerError("the authority of the request target and Host differ")
        target = slash + rest if slash else b"/"
    if target[:1] != b"/" or b"#" in target:
        raise CallerError("the request target must be a path with an optional query")
    return target


def _length(fields: dict[bytes, bytes], minor: int) -> int:
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise CallerError("Content-Length and Transfer-Encoding exclude each other")
        if coding.lower() != b"chunked" or minor == 0:
            raise CallerError("the only Transfer-Encoding is chunked, and only in HTTP/1.1")
        return CHUNKED
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise CallerError("Content-Length must be a decimal number of up to 15 digits")
    return int(length)


def _head_too_large() -> SlimqError:
    return HeaderTooLarge(f"request line and headers have at most {HEAD_MAX} bytes together")


def _line_too_large() -> SlimqError:
    return HeaderTooLarge(f"a request line has at most {REQUEST_LINE_MAX} bytes")


def _fault(raw: bytes) -> str:
    """Say which rule a head breaks, in the order in which people make the mistakes."""
    if _BARE.search(raw):
        return "lines of a head end with CR LF: there is a bare CR or LF"
    if _CONTROL.search(raw):
        return "a head must not contain control characters"
    first, *lines = raw.removesuffix(END).split(b"\r\n")
    if _REQUEST_LINE.fullmatch(first + b"\r\n") is None:
        return "a request line is: method, space, target, space, HTTP/1.1 or HTTP/1.0"
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return "a header must not be folded over several lines"
        name = line.partition(b":")[0]
        if name != name.rstrip(b" \t"):
            return "there must be no space between a header name and its colon"
    return "a header field is: name, colon, value; the name is a token"
