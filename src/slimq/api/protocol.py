"""The connection: one strictly framed request at a time, answered in order.

uvicorn's protocol is a good bridge to an ASGI app, but it trusts its parser with framing
and has no deadlines. This subclass frames requests itself (`head.py`, `chunked.py`),
bounds them in size and time, answers `POST /add` on the spot, and hands every other
request to the app once it is complete, so that no slow caller ever holds a task.

    IDLE -> HEAD -> BODY -> WAIT -> IDLE          WAIT: the answer is being made
      |      |       |       |
      +------+-------+-------+--> LINGER -> CLOSED

What is pipelined behind a running request stays in the buffer, and reading pauses when
that fills up. In LINGER the answer is out and its connection ends; what still arrives is
thrown away, because closing at once would reset the connection and lose the answer.
"""

from __future__ import annotations

import asyncio
import math
from enum import IntEnum
from functools import lru_cache
from typing import Any, Protocol

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from slimq.api.add import Adding
from slimq.api.chunked import ChunkedReader
from slimq.api.head import CHUNKED, END, Head, accept_of, check_unfinished
from slimq.api.outcome import Outcome
from slimq.api.problem import Answer, Headers, render
from slimq.api.surface import AppBody, Surface
from slimq.core.limits import HEAD_MAX
from slimq.errors import CallerError, OperatorError, SlimqError, Timeout

_CLOSING = frozenset({400, 408, 413, 431})  # after these the rest of the stream is not trusted
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class State(IntEnum):
    IDLE = 0  # no byte of the next request is here
    HEAD = 1
    BODY = 2
    WAIT = 3
    LINGER = 4
    CLOSED = 5


class Message(Protocol):
    """The body of a request, on its way to who answers it."""

    def feed(self, data: bytes) -> None: ...

    def discard(self) -> None: ...


class AcceptProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self, surface: Surface, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        self._surface = surface
        self._state = State.IDLE
        self._deadline = math.inf
        self._buffer = b""
        self._at = 0  # what stands before it in the buffer is done with
        self._checked = 0  # bytes of an unfinished head that were looked at
        self._head: Head | None = None
        self._message: Message | None = None
        self._left = 0  # bytes of a body with a length that are to come
        self._chunks: ChunkedReader | None = None
        self._advancing = False
        self._eof = False

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.time() + self._surface.deadlines.header_s
        if self._surface.draining:
            self._close()
        elif len(self.server_state.connections) > self._surface.connections_max:
            self._refuse(OperatorError("too many connections at a time; close some, or wait"))

    def data_received(self, data: bytes) -> None:
        if self._state >= State.LINGER:
            return
        self._buffer = self._buffer[self._at :] + data if self._buffer else data
        self._at = 0
        self._advance()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection half open for the caller that said all and waits for its
        answer. For the app the end of the stream means that the caller left."""
        self._eof = self._state is State.WAIT and isinstance(self._message, Adding)
        return self._eof

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        self._drop_message()
        self._buffer = b""
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._state is State.WAIT:
            self._deadline = self.loop.time() + self._surface.deadlines.body_idle_s

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._state is State.WAIT:
            self._deadline = math.inf
        elif self._state < State.WAIT:
            self.flow.resume_reading()
            self._advance()

    # From the server.

    def shutdown(self) -> None:
        """Close when nothing is in flight; otherwise after the next answer."""
        if self._state is State.IDLE:
            self._close()
        elif self._state is State.WAIT and self.cycle is not None:
            self.cycle.keep_alive = False

    def sweep(self, now: float) -> None:
        """Enforce the deadlines: the server calls this about every second."""
        if self.transport.is_closing() and self._state is not State.CLOSED:
            self._close()
        if now < self._deadline:
            return
        if self._state in (State.HEAD, State.BODY):
            what = "head" if self._state is State.HEAD else "body"
            self._refuse(Timeout(f"the {what} of the request did not arrive in time"))
        elif self._state in (State.IDLE, State.LINGER):
            self._close()
        else:
            self.transport.abort()

    # Framing.

    def _advance(self) -> None:
        """Understand what is in the buffer, up to the end of the next complete request."""
        if self._advancing:
            return
        self._advancing = True
        more = True
        while more and self._state < State.WAIT and not self.flow.write_paused:
            try:
                more = self._take_body() if self._state is State.BODY else self._take_head()
            except SlimqError as error:
                self._refuse(error)
        self._advancing = False
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0
        if self._state is State.BODY:
            self._deadline = self.loop.time() + self._surface.deadlines.body_idle_s
        if self._state is State.WAIT or self.flow.write_paused:
            if len(self._buffer) - self._at > HEAD_MAX:
                self.flow.pause_reading()
        elif self._eof and self._state < State.WAIT:
            self._close()

    def _take_head(self) -> bool:
        """Begin a request if its head is complete; return whether it was."""
        buffer = self._buffer
        while buffer.startswith(b"\r\n", self._at):  # RFC 9112 2.2: ignore empty lines here
            self._at += 2
        end = buffer.find(END, self._at)
        if end < 0:
            if self._at < len(buffer):
                self._wait_for_head(buffer[self._at :])
            return False
        raw = buffer[self._at : end + 4]
        self._at = end + 4
        self._checked = 0
        self._begin(self._surface.heads.read(raw))
        return True

    def _wait_for_head(self, unfinished: bytes) -> None:
        check_unfinished(unfinished, self._checked)
        self._checked = len(unfinished)
        if self._state is State.IDLE:
            self._state = State.HEAD
            self._deadline = self.loop.time() + self._surface.deadlines.header_s

    def _begin(self, head: Head) -> None:
        self._head = head
        self._state = State.BODY
        self._left = head.length if head.length > 0 else 0
        self._chunks = ChunkedReader() if head.length == CHUNKED else None
        if head.path == b"/add" and head.method == "POST":
            self._message = self._surface.intake.begin(head.query, head.fields, head.length)
        else:
            self._message = AppBody(self._surface, head.length)
        if head.length == 0:
            self._complete()
        elif head.expects and self._at == len(self._buffer):
            self.transport.write(_CONTINUE)

    def _take_body(self) -> bool:
        """Pass on what is here of the body; return whether there was any."""
        assert self._message is not None
        start = self._at
        if start == len(self._buffer):
            return False
        if self._chunks is not None:
            pieces, self._at = self._chunks.feed(self._buffer, start)
            for piece in pieces:
                self._message.feed(piece)
            complete = self._chunks.done
        else:
            piece = self._buffer[start : start + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            self._message.feed(piece)
            complete = not self._left
        if complete:
            self._complete()
        return True

    def _complete(self) -> None:
        self._chunks = None
        self._state = State.WAIT
        self._deadline = math.inf
        if isinstance(self._message, Adding):
            self._message.finish(self._on_outcome)
        else:
            self._call_app()

    # Answers.

    def _call_app(self) -> None:
        """Let the parser, and through it the app, have one complete request."""
        assert self._head is not None
        assert isinstance(self._message, AppBody)
        body = self._message.take()
        self._message = None
        try:
            self.parser.feed_data(self._head.for_app(len(body)))
            if body:
                self.parser.feed_data(body)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise CallerError("the request cannot be read") from error

    def on_response_complete(self) -> None:
        """The app answered."""
        self.server_state.total_requests += 1
        self._answered(self.cycle.keep_alive)

    def _on_outcome(self, outcome: Outcome) -> None:
        """The jobs of a `POST /add` are accepted, or refused."""
        message, head = self._message, self._head
        self._message = None
        if self._state is not State.WAIT or self.transport.is_closing():
            return
        assert isinstance(message, Adding)
        self.server_state.total_requests += 1
        answer = message.answer(outcome)
        self._write(answer, self._may_keep(head) and answer.status not in _CLOSING)

    def _refuse(self, error: SlimqError) -> None:
        """Answer a request that was not read to its end, or not at all."""
        self._drop_message()
        head, self._head = self._head, None
        if self.transport.is_closing():
            return
        accept = head.accept if head is not None else accept_of(self._buffer)
        keep = self._may_keep(head) and error.status not in _CLOSING and self._skip_body()
        self._write(render(error, accept), keep)

    def _skip_body(self) -> bool:
        """Pass over the rest of a body if it is here as a whole; return whether it was."""
        if self._chunks is not None or self._left > len(self._buffer) - self._at:
            return False
        self._at += self._left
        self._left = 0
        return True

    def _may_keep(self, head: Head | None) -> bool:
        return head is not None and head.keep_alive and not self._surface.draining

    def _write(self, answer: Answer, keep: bool) -> None:
        location = f"location: {answer.location}\r\n" if answer.location else ""
        length = f"content-length: {len(answer.body)}\r\n\r\n"
        head = f"{_head_lines(answer.status, answer.headers, keep)}{location}{length}"
        self.transport.write(head.encode("latin-1") + answer.body)
        self._answered(keep)

    def _answered(self, keep: bool) -> None:
        complete = self._state is State.WAIT and self._at == len(self._buffer)
        self._head = None
        self._checked = 0
        if self.transport.is_closing() or (complete and not keep):
            self._close()
        elif not keep or self._surface.draining:
            self._linger()
        else:
            self._state = State.IDLE
            self._deadline = self.loop.time() + self._surface.deadlines.keep_alive_s
            self.flow.resume_reading()
            if self._buffer or self._eof:
                self._advance()

    def _linger(self) -> None:
        """End the connection without a reset that would take the answer with it."""
        self._buffer, self._at = b"", 0
        if self._eof or not self.transport.can_write_eof():
            self._close()
            return
        self._state = State.LINGER
        self._deadline = self.loop.time() + self._surface.deadlines.linger_s
        self.flow.resume_reading()
        self.transport.write_eof()

    def _close(self) -> None:
        self._drop_message()
        self._buffer, self._at = b"", 0
        self._state = State.CLOSED
        self._deadline = self.loop.time() + self._surface.deadlines.linger_s
        self.transport.close()

    def _drop_message(self) -> None:
        message, self._message = self._message, None
        if message is not None:
            message.discard()


@lru_cache
def _head_lines(status: int, headers: Headers, keep: bool) -> str:
    """Return the lines with which all answers of a kind begin."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if not keep:
        lines.append("connection: close\r\n")
    return STATUS_LINE[status].decode("ascii") + "".join(lines)
