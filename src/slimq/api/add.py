"""Stage 1, accept: HTTP request → journal.

`POST /add`: every line of the body is one job, as received. The connection answers it
itself (`protocol.py`); the same intake stands behind an ordinary ASGI route, for servers
other than ours.

    202 {"ok":true,"count":2,"ids":["...","..."]}
    202 {"ok":true,"count":5000,"first":"...","last":"..."}

For `Accept: text/plain`: one id a line, or, above LIST_IDS_MAX lines without `ids=all`,
the first and the last id on one line, as ``first..last``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from slimq.api.accept import Acceptor
from slimq.api.gather import SMALL_MAX
from slimq.api.options import NOW, AddOptions, AddOptionsReader, read_key, read_trace
from slimq.api.outcome import Accepted, Outcome, accepted_headers, tell
from slimq.api.problem import Answer, prefers_text, render, to_response
from slimq.core.limits import LIST_IDS_MAX
from slimq.errors import BadBody, BodyTooLarge, SlimqError
from slimq.journal.body import Body

_ONE = '{"ok":true,"count":1,"ids":["%s"]}\n'


class Adding:
    """One `POST /add` whose body arrives. A small one that arrives in one piece, as nearly
    all do, may share its record of the journal with others."""

    __slots__ = ("_accept", "_acceptor", "_body", "_key", "_options", "_piece", "_trace")

    def __init__(
        self, acceptor: Acceptor, options: AddOptions, key: str, trace: str, accept: str
    ) -> None:
        self._acceptor = acceptor
        self._options = options
        self._key = key
        self._trace = trace
        self._accept = accept
        self._piece: bytes | None = None  # all of the body so far, if that is small
        self._body: Body | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body. Raises LineTooLong, BodyTooLarge."""
        if self._body is None:
            if self._piece is None and len(data) <= SMALL_MAX:
                self._piece = data
                return
            self._open()
        assert self._body is not None
        self._body.feed(data)

    def _open(self) -> None:
        piece, self._piece = self._piece, None
        self._body = self._acceptor.new_body()
        if piece:
            self._body.feed(piece)

    def finish(self, done: Callable[[Outcome], None]) -> None:
        """The body is complete: `done` is called once, with what became of it."""
        options = self._options
        if self._body is None:
            if (
                options.when is NOW
                and options.durability != "store"
                and not (self._key or self._trace)
            ):
                self._acceptor.accept_small(options, self._piece or b"", done)
                return
            self._open()
        body, self._body = self._body, None
        assert body is not None, "it was just opened"
        body.finish()
        self._acceptor.accept_lines(self._options, body, self._key, self._trace, done)

    async def finished(self) -> Outcome:
        """`finish` for those who wait."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.finish(lambda outcome: tell(future, outcome))
        return await future

    def discard(self) -> None:
        """Forget a body that did not arrive whole. No-op once it is finished."""
        body, self._body, self._piece = self._body, None, None
        if body is not None:
            body.discard()

    def answer(self, outcome: Outcome) -> Answer:
        if isinstance(outcome, SlimqError):
            return render(outcome, self._accept)
        return accepted_answer(outcome, self._options.all_ids, prefers_text(self._accept))


class AddIntake:
    """Opens requests to `POST /add`."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._options = AddOptionsReader()

    def begin(self, query: bytes, fields: Mapping[bytes, bytes], length: int) -> Adding:
        """Return the request to feed. `fields` are the headers, names in lower case;
        `length` is the Content-Length, 0 or less if unknown.

        Raises what the journal refuses with now, BadParameter, BadName, BodyTooLarge.
        """
        self._acceptor.check_open()
        options = self._options.read(query)
        if length > self._acceptor.body_max:
            raise BodyTooLarge(f"a body has at most {self._acceptor.body_max} bytes")
        key, trace = read_key(fields), read_trace(fields)
        accept = fields.get(b"accept")
        return Adding(
            self._acceptor, options, key, trace, accept.decode("latin-1") if accept else ""
        )


def accepted_answer(accepted: Accepted, all_ids: bool, text: bool) -> Answer:
    """Return the 202 to jobs that are accepted."""
    block = accepted.ids
    headers = accepted_headers(accepted.durability, accepted.replayed, text)
    if block.count == 1:
        body = f"{accepted.first}\n" if text else _ONE % accepted.first
        return Answer(202, headers, body.encode("ascii"), f"/jobs/{accepted.first}")
    if block.count <= LIST_IDS_MAX or all_ids:
        ids = block.ids()
        return Answer(202, headers, _text(ids) if text else _json(ids))
    if text:
        return Answer(202, headers, f"{accepted.first}..{block.last}\n".encode())
    document = {"ok": True, "count": block.count, "first": accepted.first, "last": block.last}
    return Answer(202, headers, msgspec.json.encode(document) + b"\n")


def _text(ids: list[str]) -> bytes:
    return ("\n".join(ids) + "\n").encode("ascii")


def _json(ids: list[str]) -> bytes:
    """Ids need no escaping, so that joining them is the fastest encoder."""
    listed = '","'.join(ids)
    return f'{{"ok":true,"count":{len(ids)},"ids":["{listed}"]}}\n'.encode("ascii")


def fields_of(request: Request) -> dict[bytes, bytes]:
    """Return the headers of an ASGI request by lower-case name; raises BadBody for a
    repeated Idempotency-Key."""
    fields: dict[bytes, bytes] = {}
    for name, value in request.headers.raw:
        if name == b"idempotency-key" and name in fields:
            raise BadBody("the header idempotency-key must not be repeated")
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


class AddRoute:
    """`POST /add` as an endpoint of the app."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._intake = AddIntake(acceptor)

    async def respond(self, request: Request) -> Response:
        try:
            answer = await self._add(request)
        except SlimqError as error:
            answer = render(error, request.headers.get("accept", ""))
        return to_response(answer)

    async def _add(self, request: Request) -> Answer:
        length = request.headers.get("content-length", "")
        query: bytes = request.scope["query_string"]
        size = int(length) if length.isdecimal() else 0
        adding = self._intake.begin(query, fields_of(request), size)
        try:
            async for chunk in request.stream():
                adding.feed(chunk)
        except ClientDisconnect as error:
            adding.discard()
            raise BadBody("the body was cut off") from error
        except BaseException:
            adding.discard()
            raise
        return adding.answer(await adding.finished())
