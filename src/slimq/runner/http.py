"""The `http` runner: POSTs jobs to a URL, one by one or as a batch of lines.

Transfers run on the event loop, over kept connections. Where a name leads is judged when
the socket is opened; redirects are not followed; answers are bounded.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pycurl

from slimq import __version__
from slimq.core import status as statuses
from slimq.core.handler import Handler, bad_field
from slimq.core.job import Batch, Job, Ran, Result
from slimq.core.lines import parse_reply
from slimq.core.limits import RESPONSE_MAX, RESULT_MAX, URL_MAX
from slimq.runner.address import AddressPolicy, Network
from slimq.runner.signing import secret_key, signature
from slimq.system.clock import Clock

IDS_PER_HEADER = 100
CONNECT_MS = 10_000


class HttpRunner:
    """`secrets` are Standard Webhooks secrets (``whsec_...``): each of them signs."""

    lang = "http"

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        allow: Sequence[Network],
        clock: Clock,
        connections_per_host: int,
    ) -> None:
        self._keys = [secret_key(secret) for secret in secrets]
        self._policy = AddressPolicy(allow)
        self._clock = clock
        self._per_host = connections_per_host
        self._multi: pycurl.AsyncCurlMulti | None = None
        self._free: list[Any] = []

    def check(self, handler: Handler) -> None:
        url = handler.body
        if not isinstance(url, str) or not 0 < len(url) <= URL_MAX:
            raise bad_field("body", f"a URL of at most {URL_MAX} characters")
        if any(ord(c) <= 32 or ord(c) == 127 for c in url):
            raise bad_field("body", "a URL has no spaces or control characters")
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise bad_field("body", f"a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise bad_field("body", "a URL of the form http://host/path or https://host/path")
        if parts.username is not None or parts.password is not None:
            raise bad_field("body", "a URL without user and password")
        self._check_host(parts.hostname, port)

    def _check_host(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return  # a name that is not known yet is judged when it is
        if not any(self._policy.permits(str(entry[4][0])) for entry in found):
            rule = "the host is in a private, loopback or reserved range; see setting http.allow"
            raise bad_field("body", rule)

    async def run(self, batch: Batch) -> Ran:
        single = batch.handler.options.batch_size == 1
        if single:
            answers = await asyncio.gather(*[self._post_single(batch, job) for job in batch.jobs])
            return Ran(list(answers))
        return await self._post_batch(batch)

    async def close(self) -> None:
        if self._multi is not None:
            await self._multi.aclose()
            self._multi = None

    async def _post_single(self, batch: Batch, job: Job) -> Result:
        headers = [
            "Content-Type: application/octet-stream",
            f"Idempotency-Key: {job.id}",
            f"Slimq-Attempt: {job.attempt}",
        ]
        if job.trace:
            headers.append(f"traceparent: {job.trace}")
        answer = await self._post(batch, job.id, job.data, headers)
        if answer.error:
            return Result(answer.status, error=answer.error)
        options = batch.handler.options
        status = statuses.status_of_http(answer.code, options.retry_on, options.fail_on)
        if 200 <= answer.code < 300:
            status = answer.override or status
        retry_after = answer.retry_after_ms(self._clock.wall_ms())
        error = "" if 200 <= status < 300 else f"the handler answered {answer.code}"
        text = answer.body[:RESULT_MAX]
        return Result(status, text, error, retry_after if status < 200 else None)

    async def _post_batch(self, batch: Batch) -> Ran:
        jobs, options = batch.jobs, batch.handler.options
        ids = [job.id for job in jobs]
        headers = ["Content-Type: text/plain", f"Slimq-Count: {len(jobs)}"]
        for start in range(0, len(jobs), IDS_PER_HEADER):
            part = jobs[start : start + IDS_PER_HEADER]
            headers.append("Slimq-Job-Ids: " + ",".join(job.id for job in part))
            headers.append("Slimq-Attempt: " + ",".join(str(job.attempt) for job in part))
        digest = hashlib.blake2b("".join(ids).encode(), digest_size=16).hexdigest()
        body = b"\n".join(job.data for job in jobs) + b"\n"
        answer = await self._post(batch, f"batch_{digest}", body, headers)
        if answer.error:
            return Ran([Result(answer.status, error=answer.error) for _ in jobs])
        status = statuses.status_of_http(answer.code, options.retry_on, options.fail_on)
        if not 200 <= answer.code < 300 or not 200 <= status < 300:
            after = answer.retry_after_ms(self._clock.wall_ms()) if status < 200 else None
            error = f"the handler answered {answer.code}"
            return Ran([Result(status, b"", error, after) for _ in jobs])
        reply = parse_reply(answer.body, len(jobs))
        missing = "the handler gave no result line, or a malformed one, for this job"
        results = [
            Result(statuses.NO_RESULT, error=missing) if line is None else Result(*line)
            for line in reply.results
        ]
        return Ran(results, reply.children)

    async def _post(self, batch: Batch, id_: str, body: bytes, headers: list[str]) -> _Answer:
        url = batch.handler.body
        assert isinstance(url, str), "check saw to it"
        timestamp = self._clock.wall_ms() // 1000
        headers += [
            f"webhook-id: {id_}",
            f"webhook-timestamp: {timestamp}",
            f"webhook-signature: {signature(self._keys, id_, timestamp, body)}",
            f"Slimq-Type: {batch.type}",
            "Expect:",
        ]
        answer = _Answer(RESPONSE_MAX * len(batch.jobs))
        curl = self._free.pop() if self._free else self._new_handle()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.POSTFIELDS, body)
        curl.setopt(pycurl.HTTPHEADER, headers)
        curl.setopt(pycurl.TIMEOUT_MS, batch.handler.options.timeout_ms)
        curl.setopt(pycurl.WRITEFUNCTION, answer.on_body)
        curl.setopt(pycurl.HEADERFUNCTION, answer.on_header)
        try:
            await self._transfers().perform(curl)
            answer.code = curl.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            answer.fail(int(error.args[0]))
        except BaseException:
            curl.close()
            raise
        self._free.append(curl)
        return answer

    def _transfers(self) -> pycurl.AsyncCurlMulti:
        if self._multi is None:
            self._multi = pycurl.AsyncCurlMulti()
            self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self._per_host)
            self._multi.setopt(pycurl.M_MAXCONNECTS, 4 * self._per_host)
        return self._multi

    def _new_handle(self) -> Any:
        curl = pycurl.Curl()
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, CONNECT_MS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.USERAGENT, f"slimq/{__version__}")
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        return curl

    def _open_socket(self, purpose: int, address: Any) -> Any:
        """Judge where a connection goes, right before it is made."""
        family, kind, protocol, target = address
        if not self._policy.permits(str(target[0])):
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)


class _Answer:
    """What came back: a code with headers and body, or an `error` and its `status`."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._parts: list[bytes] = []
        self._size = 0
        self._headers: dict[bytes, bytes] = {}
        self.too_large = False
        self.code = 0
        self.status = 0
        self.error = ""

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    @property
    def override(self) -> int | None:
        text = self._headers.get(b"slimq-status", b"")
        if len(text) == 3 and text.isdigit() and statuses.is_status(int(text)):
            return int(text)
        return None

    def retry_after_ms(self, now: int) -> int | None:
        """Read delta-seconds or an HTTP-date (RFC 9110, 10.2.3)."""
        text = self._headers.get(b"retry-after", b"").decode("latin-1").strip()
        if text.isdecimal() and len(text) <= 9:
            return int(text) * 1000
        try:
            at = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0, int(at.timestamp() * 1000) - now)

    def on_body(self, data: bytes) -> int | None:
        self._size += len(data)
        if self._size > self._size_max:
            self.too_large = True
            return 0
        self._parts.append(data)
        return None

    def on_header(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if colon and len(self._headers) < 200:
            self._headers[name.strip().lower()] = value.strip()

    def fail(self, code: int) -> None:
        self.status = statuses.NO_RESULT
        if self.too_large:
            self.error = f"the answer is larger than {self._size_max} bytes"
        elif code == pycurl.E_OPERATION_TIMEDOUT:
            self.status, self.error = statuses.TIMEOUT, "the handler did not answer in time"
        else:
            self.error = _REASONS.get(code, f"the request failed (curl error {code})")


_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "the name of the handler's host is not known",
    pycurl.E_COULDNT_CONNECT: "the handler cannot be connected to, or its address is forbidden",
    pycurl.E_GOT_NOTHING: "the handler closed the connection without an answer",
}
