"""The bytes of a connection become answers, one at a time. Pure: httptools parses, this
keeps what is wanted, within bounds.

    WAITS -> HEAD -> BODY -> DONE          an interim answer (1xx) leads from HEAD to HEAD

An answer has a length, or chunks, or goes on to the end of the connection. A status line or
head that httptools does not take for HTTP/1.0 or 1.1 is no answer. It is strict but for one
thing: lines may end without CR (RFC 9112 2.2). What follows a complete answer is thrown away,
with its connection: nothing of it can be taken for the answer of another request.
"""

from __future__ import annotations

import httptools

from slimq.core.limits import ANSWER_HEAD_MAX
from slimq.runner.caller import ENDED, HEAD_OVER, Response, body_over

_WANTED = {b"slimq-status", b"retry-after"}
_FRAMING = {b"content-length", b"transfer-encoding"}
_VERSIONS = {"1.0", "1.1"}
_BODILESS = {204, 304}  # RFC 9112 6.3
_PER_BYTE = 8  # a chunk of one byte takes 6: what framing may add to a byte of a body


class _NoAnswer(Exception):
    """Ends the parsing; `trouble` is said already."""


class AnswerReader:
    """For one connection. `begin` an answer, `feed` it until it is `done`, then `response`.
    `keep` says whether the connection may have another request after it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
        self.begin(0)

    def begin(self, answer_max: int) -> None:
        """Expect an answer with a body of at most so many bytes."""
        self.done = self.keep = False
        self.trouble = ""  # why there will be no answer
        self._answer_max = answer_max
        self._fed = 0
        self._body = bytearray()
        self._code = 0
        self._forget_head()

    @property
    def began(self) -> bool:
        """Whether a byte of the answer is here."""
        return self._fed > 0

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether there is nothing more to wait for."""
        if not self._fed and data[:1] != b"H":  # httptools would take RTSP, too
            self.trouble = "not an HTTP answer"
            return True
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep = False
            if not self.done:
                self.trouble = self.trouble or f"malformed answer: {error}"
        if self._fed - _PER_BYTE * len(self._body) > ANSWER_HEAD_MAX and not self.done:
            self.trouble = self.trouble or HEAD_OVER
        return self.done or bool(self.trouble)

    def end(self, *, broken: bool = False) -> None:
        """The connection ended, which may be how the answer ends."""
        if self._until_end and not broken:
            self.done = True
        else:
            self.trouble = ENDED

    def response(self) -> Response:
        if not self.done:
            return Response(0, error=self.trouble)
        status, later = self._header(b"slimq-status"), self._header(b"retry-after")
        return Response(self._code, bytes(self._body), status, later)

    def _header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def _forget_head(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._in_body = self._framed = self._until_end = False

    def _stop(self, trouble: str) -> _NoAnswer:
        self.trouble = trouble
        return _NoAnswer()

    # From httptools.

    def on_message_begin(self) -> None:
        if self.done:
            raise _NoAnswer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        name = name.lower()
        if name in _WANTED:
            before = self._headers.get(name)
            value = value.strip()
            self._headers[name] = value if before is None else before + b", " + value
        elif name in _FRAMING:
            self._framed = True
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise self._stop("a transfer encoding that nobody asked for")

    def on_headers_complete(self) -> None:
        code = self._code = self._parser.get_status_code()
        if self._parser.get_http_version() not in _VERSIONS or code < 100 or code == 101:
            raise self._stop("malformed status line")
        if code >= 200:
            self._in_body = True
            self._until_end = not self._framed and code not in _BODILESS

    def on_body(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > self._answer_max:
            raise self._stop(body_over(self._answer_max))
        self._body += chunk

    def on_message_complete(self) -> None:
        if self._code < 200:
            self._forget_head()
            return
        self.done = True
        self.keep = self._parser.should_keep_alive()
