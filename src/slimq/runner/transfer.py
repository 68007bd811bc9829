"""One libcurl handle: sends a request, keeps a bounded answer. Used again and again.

What is off: redirects, proxies (also those of the environment), .netrc, cookies, content
decoding (no decompression bombs), HTTP/0.9, signals, every protocol but http and https.
What is on: TLS 1.2 or later with verification, TCP keep-alive, and the judgement of
every address in the moment a socket is made for it.
"""

from __future__ import annotations

import os
import re
import socket

import pycurl

from slimq.core.limits import ANSWER_HEAD_MAX, CONNECT_TIMEOUT_MS
from slimq.runner.address import AddressPolicy
from slimq.runner.caller import (
    AGENT,
    ENDED,
    HEAD_OVER,
    NewSocket,
    Request,
    Response,
    body_over,
    refused,
    timed_out,
    unopened,
)

_ABORT = 0  # a callback that takes fewer bytes than it got: libcurl ends the transfer
# Without a value it removes the header: waiting for 100 Continue costs a round trip.
_NO_EXPECT = "Expect:"
_WANTED = {b"slimq-status", b"retry-after"}

# libcurl reads "HTTP/1.1 2000" as 200, and takes 101 for an answer.
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (?!101)[1-9]\d\d[ \r\n]")

_FIXED: dict[int, int | str] = {
    pycurl.POST: 1,
    pycurl.NOSIGNAL: 1,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.REDIR_PROTOCOLS: 0,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.PROXY: "",
    pycurl.NOPROXY: "*",
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.HTTP_CONTENT_DECODING: 0,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.SSL_VERIFYPEER: 1,
    pycurl.SSL_VERIFYHOST: 2,
    pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
    pycurl.CONNECTTIMEOUT_MS: CONNECT_TIMEOUT_MS,
    pycurl.TCP_KEEPALIVE: 1,
}


class Transfer:
    """Belongs to one request at a time: `prepare`, perform `curl`, `response`."""

    def __init__(
        self,
        policy: AddressPolicy,
        ca_file: str | None,
        new_socket: NewSocket,
    ) -> None:
        self._policy = policy
        self._socket = new_socket
        self._body = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._head_over = False
        self._answer_max = self._timeout_ms = 0
        self._trouble = ""
        self._refused = ""
        self._unopened: OSError | None = None
        self._opened: socket.socket | None = None
        self.curl = pycurl.Curl()
        for option, value in _FIXED.items():
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.USERAGENT, AGENT)
        if ca_file is not None:
            self.curl.setopt(pycurl.CAINFO, ca_file)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._take_body)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._take_header)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        self.curl.setopt(pycurl.SOCKOPTFUNCTION, self._adopt_socket)

    def prepare(self, request: Request) -> None:
        """Set up `request`. Raises pycurl.error for an impossible one."""
        self._body = bytearray()
        self._headers.clear()
        self._head_bytes = 0
        self._head_over = False
        self._timeout_ms = request.timeout_ms
        self._answer_max = request.answer_max
        self._trouble = ""
        self._refused = ""
        self._unopened = None
        self.curl.setopt(pycurl.URL, request.url.encode("utf-8", "replace"))
        self.curl.setopt(pycurl.HTTPHEADER, [*request.headers, _NO_EXPECT])
        self.curl.setopt(pycurl.POSTFIELDS, request.body)
        self.curl.setopt(pycurl.TIMEOUT_MS, request.timeout_ms)

    def response(self) -> Response:
        """Return the answer of a transfer that was complete."""
        if not self._head_over:  # libcurl takes the end of the connection for that of a head
            return Response(0, error=ENDED)
        return Response(
            self.curl.getinfo(pycurl.RESPONSE_CODE),
            bytes(self._body),
            self._header(b"slimq-status"),
            self._header(b"retry-after"),
        )

    def failure(self, error: pycurl.error) -> Response:
        """Return what to say of a transfer that ended with `error`."""
        code, message = error.args
        if self._trouble:
            return Response(0, error=self._trouble)
        if self._refused:
            return refused(self._refused)
        if self._unopened is not None:
            return unopened(self._unopened)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return timed_out(self._timeout_ms)
        return Response(0, error=message)

    def forget(self) -> None:
        """Let go of the bodies while nothing is sent."""
        self.curl.setopt(pycurl.POSTFIELDS, b"")
        self._body = bytearray()

    def close(self) -> None:
        self.curl.close()

    def _header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def _take_body(self, chunk: bytes) -> int:
        if len(self._body) + len(chunk) > self._answer_max:
            self._trouble = body_over(self._answer_max)
            return _ABORT
        self._body += chunk
        return len(chunk)

    def _take_header(self, line: bytes) -> int:
        self._head_bytes += len(line)
        if self._head_bytes > ANSWER_HEAD_MAX:
            self._trouble = HEAD_OVER
            return _ABORT
        if line.startswith(b"HTTP/"):  # no name of a field has a slash
            return self._take_status_line(line)
        name, _, value = line.partition(b":")
        name = name.lower()
        self._head_over = self._head_over or not line.strip()
        if name in _WANTED and not self._head_over:  # else it is a trailer
            before = self._headers.get(name)
            value = value.strip()
            self._headers[name] = value if before is None else before + b", " + value
        return len(line)

    def _take_status_line(self, line: bytes) -> int:
        self._head_over = False
        self._headers.clear()  # those so far belonged to an interim answer
        if not _STATUS_LINE.match(line):
            self._trouble = "malformed status line"
            return _ABORT
        return len(line)

    def _open_socket(self, _purpose: int, address: pycurl.CurlSockAddr) -> socket.socket | int:
        host = address.addr[0] if address.family in (socket.AF_INET, socket.AF_INET6) else ""
        if not self._policy.permits(host):
            self._refused = host
            return int(pycurl.SOCKET_BAD)
        self._refused = ""
        try:
            self._opened = self._socket(address.family, address.socktype, address.protocol)
        except OSError as error:  # pycurl would print it, and libcurl say something else
            self._unopened = error
            return int(pycurl.SOCKET_BAD)
        self._unopened = None
        return self._opened

    def _adopt_socket(self, descriptor: int, _purpose: int) -> int:
        """pycurl gave libcurl a duplicate of the socket that was opened, and one that
        commands would inherit."""
        os.set_inheritable(descriptor, False)
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        return int(pycurl.SOCKOPT_OK)
