"""One connection to a target: a request, its answer, the next request."""

from __future__ import annotations

import asyncio

from slimq.runner.caller import Request, Response, timed_out
from slimq.runner.http_answer import AnswerReader


class Connection(asyncio.Protocol):
    """Belongs to one request at a time. `closed` says that it takes no more, `lost` is done
    when nothing of it is left.

    The timer is set for the deadline of the first request and left alone: when it fires, it
    is set for that of the request that is then under way. Most requests never touch it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response | None] | None = None
        self._deadline = 0.0
        self._timeout_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.closed = False

    def ask(
        self, head: bytes, request: Request, deadline: float
    ) -> asyncio.Future[Response | None]:
        """Send a request. The answer is None when the connection ended without a byte of one.
        Whoever no longer waits for it must `abort`."""
        assert self._transport is not None
        assert self._answer is None, "one request at a time"
        self._answer = answer = self._loop.create_future()
        if self.closed:
            self._answer_with(None)
            return answer
        self._reader.begin(request.answer_max)
        self._deadline, self._timeout_ms = deadline, request.timeout_ms
        if self._timer is None or deadline < self._timer_at:
            self._set_timer()
        self._transport.writelines((head, request.body))
        return answer

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.closed = True
        self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked: it cannot be the answer of the next request
            self.abort()
        elif self._reader.feed(data):
            self._complete()

    def eof_received(self) -> None:
        """Afterwards the transport closes itself."""
        self._ended(broken=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(broken=True)
        self.abort()
        self.lost.set_result(None)

    # The end of a request.

    def _ended(self, *, broken: bool) -> None:
        self.closed = True
        if self._answer is None:
            return
        if self._reader.began:
            self._reader.end(broken=broken)
            self._complete()
        else:
            self._answer_with(None)

    def _complete(self) -> None:
        """All of the answer is here, or there will be none."""
        assert self._transport is not None
        unsent = self._transport.get_write_buffer_size()  # it answered before it had read all
        keep = self._reader.keep and not unsent
        self._answer_with(self._reader.response())
        if not keep:
            self.abort()

    def _answer_with(self, response: Response | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(response)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._answer is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
            return
        self._answer_with(timed_out(self._timeout_ms))
        self.abort()
