"""CloudEvents 1.0 in `POST /jobs`: each event is one job.

Structured, batch and binary mode, told apart by content type and `ce-` headers:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
The data of the job is the event in its JSON form, compact, on one line. Its jobtype is
`?jobtype=`, or the type of the event where that is a legal name.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from slimq.api.accept_jobs import NewJob, check_count, new_job
from slimq.api.options import read_when
from slimq.core.jobtype import DEFAULT_CLIENT, make_type
from slimq.errors import BadBody, SlimqError

PARAMETERS = ("jobtype", "client", "delay", "at", "durability")
_STRUCTURED = b"application/cloudevents+json"
_BATCH = b"application/cloudevents-batch+json"
_REQUIRED = ("specversion", "id", "source", "type")
_ATTRIBUTE = re.compile(rb"ce-([a-z0-9]{1,64})")
_JSON_MEDIA = re.compile(r"[^;]*[/+]json *(;.*)?", re.IGNORECASE)
_TEXT_MEDIA = re.compile(r"text/.*", re.IGNORECASE)
_RawEvent = dict[str, msgspec.Raw]
_decode_event = msgspec.json.Decoder(_RawEvent).decode
_decode_events = msgspec.json.Decoder(list[_RawEvent]).decode
_decode_string = msgspec.json.Decoder(str).decode


def is_event(fields: Mapping[bytes, bytes]) -> bool:
    """Return whether a request with these headers carries CloudEvents."""
    return b"ce-specversion" in fields or _media_type(fields) in (_STRUCTURED, _BATCH)


def read_events(
    body: bytes, fields: Mapping[bytes, bytes], parameters: Mapping[str, str]
) -> list[NewJob]:
    """Return the jobs of a request. Raises BadBody, BadName, BadParameter."""
    media = _media_type(fields)
    try:
        if media == _BATCH:
            body.decode("utf-8")
            events = _decode_events(body)
        elif media == _STRUCTURED:
            body.decode("utf-8")
            events = [_decode_event(body)]
        else:
            events = [_binary_event(body, fields)]
    except RecursionError as error:
        raise BadBody("the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadBody(f"the body does not hold a CloudEvent: {error}") from error
    check_count(len(events))
    place = "[{}]" if media == _BATCH else ""
    return [
        _read_event(event, parameters, place.format(index)) for index, event in enumerate(events)
    ]


def _media_type(fields: Mapping[bytes, bytes]) -> bytes:
    return fields.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _binary_event(body: bytes, fields: Mapping[bytes, bytes]) -> _RawEvent:
    """Return the JSON form of an event whose attributes are headers and whose data is the
    body."""
    event: dict[str, str] = {}
    for field, value in fields.items():
        attribute = _ATTRIBUTE.fullmatch(field)
        if attribute is not None:
            event[attribute[1].decode()] = unquote(value.decode("utf-8"), errors="strict")
    if "data" in event:
        raise ValueError("ce-data is no attribute: the data of an event is the body")
    media = fields.get(b"content-type", b"").decode("latin-1")
    if media:
        event["datacontenttype"] = media
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in event.items()}
    if body:
        name, data = _binary_data(body, media)
        raw[name] = data
    return raw


def _binary_data(body: bytes, media: str) -> tuple[str, msgspec.Raw]:
    if _JSON_MEDIA.fullmatch(media):
        body.decode("utf-8")
        msgspec.json.decode(body, type=msgspec.Raw)
        return "data", msgspec.Raw(body)
    if _TEXT_MEDIA.fullmatch(media):
        return "data", msgspec.Raw(msgspec.json.encode(body.decode("utf-8")))
    return "data_base64", msgspec.Raw(msgspec.json.encode(base64.b64encode(body).decode()))


def _read_event(event: _RawEvent, parameters: Mapping[str, str], place: str) -> NewJob:
    member = ""
    try:
        values: dict[str, str] = {}
        for member in _REQUIRED:
            values[member] = _required(event, member)
        if values["specversion"] != "1.0":
            member = "specversion"
            raise BadBody("specversion is 1.0")
        member = "type"
        jobtype = parameters.get("jobtype", values["type"])
        type_ = make_type(parameters.get("client", DEFAULT_CLIENT), jobtype)
        data = msgspec.json.format(msgspec.json.encode(event), indent=-1)
        return new_job(type_, data, read_when(parameters))
    except SlimqError as error:
        error.extra["path"] = f"{place}.{member}"
        raise


def _required(event: _RawEvent, name: str) -> str:
    try:
        value = _decode_string(event[name])
    except (KeyError, msgspec.DecodeError) as error:
        raise BadBody(f"an event has the attributes {', '.join(_REQUIRED)}, strings") from error
    if not value:
        raise BadBody(f"the attribute {name} must not be empty")
    return value
