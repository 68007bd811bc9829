from __future__ import annotations

import base64
import json

import pytest

EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed"}
STRUCTURED = "Content-Type: application/cloudevents+json; charset=utf-8"
BATCH = "Content-Type: application/cloudevents-batch+json"
BINARY = ("ce-specversion: 1.0", "ce-id: 1", "ce-source: /shop", "ce-type: order.placed")


def post(served, body, *fields, query=""):
    with served.wire() as wire:
        return wire.request(f"/jobs{query}", body, *fields)


def jobs_of(served):
    return [
        (header.type, json.loads(line))
        for header, lines in served.journal.records()
        for line in lines
    ]


def test_a_structured_event_is_one_job_that_holds_the_event(either):
    event = EVENT | {"data": {"total": 5, "text": "a\nb"}, "extension": "x"}
    reply = post(either, json.dumps(event, indent=2).encode(), STRUCTURED)
    assert reply.status == 202
    assert jobs_of(either) == [("main/order.placed", event)]


def test_a_batch_of_events_is_as_many_jobs(either):
    events = [EVENT | {"id": str(index)} for index in range(3)]
    query = "?jobtype=orders&client=acme"
    assert post(either, json.dumps(events).encode(), BATCH, query=query).document["count"] == 3
    assert jobs_of(either) == [("acme/orders", event) for event in events]


@pytest.mark.parametrize(
    ("media", "body", "member", "value"),
    [
        ("application/json", b'{"a" :\n 1}', "data", {"a": 1}),
        ("application/vnd.x+json; v=1", b"[1]", "data", [1]),
        ("text/plain", "\u00fc\n".encode(), "data", "\u00fc\n"),
        ("image/png", b"\x89PNG\n\xff", "data_base64", None),
    ],
)
def test_a_binary_event_is_brought_into_json_form(either, media, body, member, value):
    reply = post(either, body, f"Content-Type: {media}", *BINARY, "ce-subject: %C3%BC")
    assert reply.status == 202
    ((type_, event),) = jobs_of(either)
    expected = base64.b64encode(body).decode() if value is None else value
    assert type_ == "main/order.placed"
    assert event == EVENT | {"subject": "\u00fc", "datacontenttype": media, member: expected}


def test_a_binary_event_may_have_no_data(either):
    assert post(either, b"", *BINARY, "Content-Length: 0").status == 202
    assert jobs_of(either) == [("main/order.placed", EVENT)]


def test_an_event_may_be_deferred(either):
    post(either, json.dumps(EVENT).encode(), STRUCTURED, query="?delay=5m")
    ((header, _),) = either.journal.records()
    assert header.dt - header.at == 300_000


def test_an_idempotency_key_header_is_the_key_of_an_event(either):
    body = json.dumps(EVENT).encode()
    for replayed in (None, "true"):
        reply = post(either, body, STRUCTURED, "Idempotency-Key: k")
        assert reply.headers.get("slimq-replayed") == replayed


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": None}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"source": None}, "source"),
        ({"type": "order placed"}, "type"),
        ({"type": ""}, "type"),
    ],
)
def test_a_malformed_event_is_named_by_its_path_and_nothing_is_accepted(served, change, path):
    event = {name: value for name, value in (EVENT | change).items() if value is not None}
    reply = post(served, json.dumps(event).encode(), STRUCTURED)
    assert (reply.status, reply.document["path"]) == (400, f".{path}")
    reply = post(served, json.dumps([EVENT, event]).encode(), BATCH)
    assert (reply.status, reply.document["path"]) == (400, f"[1].{path}")
    assert not served.journal.records()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"{", (STRUCTURED,)),
        (b"[]", (STRUCTURED,)),
        (b"[]", (BATCH,)),
        (b"{}", (BATCH,)),
        (b'{"id":"\xff"}', (STRUCTURED,)),
        (b'{"id":' + b"[" * 100_000, (STRUCTURED,)),
        (b"{", ("Content-Type: application/json", *BINARY)),
        (b"\xff", ("Content-Type: text/plain", *BINARY)),
        (b"x", ("ce-specversion: 1.0",)),
        (b"x", (*BINARY, "ce-subject: %FF")),
        (b"\xff", (*BINARY, "ce-data: x", "Content-Type: image/png")),
    ],
)
def test_what_holds_no_event_is_refused(served, body, fields):
    reply = post(served, body, *fields)
    assert (reply.status, reply.slug) == (400, "bad-body")
    assert not served.journal.records()


def test_an_event_whose_type_is_no_name_needs_a_jobtype(served):
    body = json.dumps(EVENT | {"type": "https://example.org/order"}).encode()
    assert post(served, body, STRUCTURED).slug == "bad-name"
    assert post(served, body, STRUCTURED, query="?jobtype=orders").status == 202
