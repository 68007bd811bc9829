"""`POST /jobs`: jobs as JSON, each with options of its own, and CloudEvents 1.0.

    {"jobtype": "mail", "client": "acme", "data": "text" | "json": any,
     "delay": "5m" | "at": "2026-11-24T09:30:00Z", "key": "order-7"}

or an array of these; all or nothing. The answer lists the ids in order; where some jobs
were there before (`key`), `replayed` says how many. An Idempotency-Key header is the key
of a request of one job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from slimq.api import cloudevents
from slimq.api.accept import Acceptor
from slimq.api.accept_jobs import AcceptedJobs, JobsAcceptor, NewJob, check_count, new_job
from slimq.api.add import fields_of
from slimq.api.options import (
    AT_RULE,
    read_durability,
    read_key,
    read_parameters,
    read_trace,
    read_when,
)
from slimq.api.outcome import accepted_headers
from slimq.api.problem import Answer, prefers_text, render, to_response
from slimq.core.duration import RULE as DURATION_RULE
from slimq.core.jobtype import DEFAULT_CLIENT, make_type
from slimq.core.limits import IDEMPOTENCY_KEY_MAX, JSON_BODY_MAX
from slimq.errors import BadBody, BadParameter, BodyTooLarge, SlimqError

MEMBERS = ("jobtype", "client", "data", "json", "delay", "at", "key")
_RULES = {"delay": DURATION_RULE, "at": AT_RULE}
_KEY = re.compile(rf"[\x20-\x7e]{{1,{IDEMPOTENCY_KEY_MAX}}}")
_RawJob = dict[str, msgspec.Raw]
_decode_jobs = msgspec.json.Decoder(list[_RawJob] | _RawJob).decode
_decode = msgspec.json.Decoder().decode


class JobsRoute:
    """`POST /jobs` as an endpoint of the app."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._jobs = JobsAcceptor(acceptor)

    async def respond(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        try:
            accepted = await self._accept(request)
        except SlimqError as error:
            return to_response(render(error, accept))
        return to_response(_answer(accepted, prefers_text(accept)))

    async def _accept(self, request: Request) -> AcceptedJobs:
        self._acceptor.check_open()
        fields = fields_of(request)
        query: bytes = request.scope["query_string"]
        is_event = cloudevents.is_event(fields)
        parameters = read_parameters(query, cloudevents.PARAMETERS if is_event else ("durability",))
        durability = read_durability(parameters)
        body = await _read_body(request)
        read = cloudevents.read_events if is_event else _read_json
        jobs = _with_key(read(body, fields, parameters), read_key(fields))
        return await self._jobs.accept(jobs, durability, read_trace(fields))


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > JSON_BODY_MAX:
                raise BodyTooLarge(f"the body of this route has at most {JSON_BODY_MAX} bytes")
    except ClientDisconnect as error:
        raise BadBody("the body was cut off") from error
    return bytes(body)


def _with_key(jobs: list[NewJob], key: str) -> list[NewJob]:
    if not key:
        return jobs
    if len(jobs) > 1 or jobs[0].key:
        raise BadParameter(
            "an Idempotency-Key header fits a request of one job; use the member key instead",
            extra={"parameter": "Idempotency-Key"},
        )
    return [jobs[0]._replace(key=key)]


def _read_json(
    body: bytes, fields: Mapping[bytes, bytes], parameters: Mapping[str, str]
) -> list[NewJob]:
    try:
        body.decode("utf-8")
        written = _decode_jobs(body)
    except RecursionError as error:
        raise BadBody("the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadBody(f"the body is a JSON object or an array of objects: {error}") from error
    jobs = written if isinstance(written, list) else [written]
    check_count(len(jobs))
    place = "[{}]" if isinstance(written, list) else ""
    return [_read_job(job, place.format(index)) for index, job in enumerate(jobs)]


def _read_job(written: _RawJob, place: str) -> NewJob:
    member = ""
    try:
        values: dict[str, str] = {}
        for member, raw in written.items():
            values[member] = _read_member(member, raw)
        member = "data"
        if ("data" in values) == ("json" in values):
            raise BadBody("a job has either data or json")
        data = values["data"] if "data" in values else values["json"]
        return new_job(
            make_type(values.get("client", DEFAULT_CLIENT), values.get("jobtype", "")),
            data.encode(),
            read_when(values),
            values.get("key", ""),
        )
    except SlimqError as error:
        member = error.extra.get("field") or error.extra.get("parameter") or member
        error.extra["path"] = f"{place}.{member[:64]}"
        raise


def _read_member(member: str, raw: msgspec.Raw) -> str:
    """Return a member as text: strings as they are, JSON compact, on one line."""
    if member not in MEMBERS:
        raise BadBody(f"there is no such member; there are {', '.join(MEMBERS)}")
    if member == "json":
        return msgspec.json.format(bytes(raw), indent=-1).decode()
    value = _value(raw)
    if member == "at" and type(value) is int:
        value = str(value)
    if not isinstance(value, str):
        raise BadBody(_RULES.get(member, "a string"))
    if member == "key" and _KEY.fullmatch(value) is None:
        raise BadBody(f"1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters")
    return value


def _value(raw: msgspec.Raw) -> Any:
    """Return the value of a member; None for a number beyond all bounds, such as 1e999."""
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        return None


def _answer(accepted: AcceptedJobs, text: bool) -> Answer:
    ids = accepted.ids
    headers = accepted_headers(accepted.durability, accepted.replayed == len(ids), text)
    location = f"/jobs/{ids[0]}" if len(ids) == 1 else ""
    if text:
        return Answer(202, headers, ("\n".join(ids) + "\n").encode("ascii"), location)
    document = {"ok": True, "count": len(ids), "ids": ids}
    if accepted.replayed:
        document["replayed"] = accepted.replayed
    return Answer(202, headers, msgspec.json.encode(document) + b"\n", location)
