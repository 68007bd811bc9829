"""`POST /jobs`: jobs that each say what they are."""

from __future__ import annotations

import json

import pytest

from slimq.core.limits import JSON_JOBS_MAX, LINE_MAX
from slimq.errors import DiskFull
from slimq.store.base import KeyUse


def post(served, document, *fields, query=""):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with served.wire() as wire:
        return wire.request(f"/jobs{query}", body, *fields)


def lines_of(served):
    """Return the lines of the only record of kind "jobs", decoded."""
    ((header, lines),) = served.journal.records()
    assert header.kind == "jobs"
    assert header.count == len(lines)
    return header, [json.loads(line) for line in lines]


def test_one_job_is_a_line(either):
    reply = post(either, {"jobtype": "mail", "data": "hello"})
    assert reply.status == 202
    ((header, lines),) = either.journal.records()
    assert (header.kind, header.type, lines) == ("lines", "main/mail", [b"hello"])
    assert reply.document == {"ok": True, "count": 1, "ids": [header.id]}
    assert reply.headers["location"] == f"/jobs/{header.id}"
    assert reply.headers["slimq-durability"] == "journal"


def test_jobs_that_differ_only_in_their_data_are_lines(either):
    jobs = [{"jobtype": "mail", "delay": "5m", "data": str(index)} for index in range(3)]
    assert post(either, jobs).document["count"] == 3
    ((header, lines),) = either.journal.records()
    assert (header.kind, lines) == ("lines", [b"0", b"1", b"2"])
    assert header.dt - header.at == 300_000


def test_jobs_with_options_of_their_own_are_one_record(either):
    jobs = [
        {"jobtype": "a", "data": "\u00fc\u2028|#J:"},
        {"jobtype": "b", "client": "acme", "json": {"x": [1, 2.50, "\n"]}, "delay": "90s"},
        {"jobtype": "b", "data": "", "at": "2027-01-01T00:00:00Z", "key": "k1"},
        {"jobtype": "b", "data": "1", "at": 1_798_761_600_001},
    ]
    reply = post(either, jobs)
    header, lines = lines_of(either)
    assert [line["type"] for line in lines] == ["main/a", "acme/b", "main/b", "main/b"]
    assert lines[0]["data"] == "\u00fc\u2028|#J:"
    assert lines[1]["data"] == '{"x":[1,2.5,"\\n"]}'
    assert lines[1]["dt"] - header.at == 90_000
    assert [line.get("dt", 0) for line in lines[2:]] == [1_798_761_600_000, 1_798_761_600_001]
    assert lines[2]["key"] == "k1"
    assert reply.document["count"] == 4
    assert reply.document["ids"][0] == header.id
    assert reply.document["ids"] == sorted(set(reply.document["ids"]))


def test_json_is_kept_as_it_is_written_but_compact(either):
    body = (
        b'{"jobtype": "a", "json" : {"n": 1.50, "big": 123456789012345678901234567890,\n"a" :[ ]}}'
    )
    assert post(either, body).status == 202
    assert either.journal.records()[0][1] == [
        b'{"n":1.50,"big":123456789012345678901234567890,"a":[]}'
    ]


def test_text_is_one_id_a_line(either):
    reply = post(either, [{"jobtype": "a", "data": "x"}] * 2, "Accept: text/plain")
    assert len(reply.body.splitlines()) == 2


@pytest.mark.parametrize(
    ("job", "slug", "path"),
    [
        ({"data": "x"}, "bad-name", "jobtype"),
        ({"jobtype": "a/b", "data": "x"}, "bad-name", "jobtype"),
        ({"jobtype": "a", "client": "", "data": "x"}, "bad-name", "client"),
        ({"jobtype": 5, "data": "x"}, "bad-body", "jobtype"),
        ({"jobtype": "a"}, "bad-body", "data"),
        ({"jobtype": "a", "data": "x", "json": 1}, "bad-body", "data"),
        ({"jobtype": "a", "data": {"x": 1}}, "bad-body", "data"),
        ({"jobtype": "a", "data": "x\ny"}, "bad-body", "data"),
        ({"jobtype": "a", "data": None}, "bad-body", "data"),
        ({"jobtype": "a", "data": "x", "delay": 5}, "bad-body", "delay"),
        ({"jobtype": "a", "data": "x", "delay": "soon"}, "bad-parameter", "delay"),
        ({"jobtype": "a", "data": "x", "at": "soon"}, "bad-parameter", "at"),
        ({"jobtype": "a", "data": "x", "at": 5}, "bad-parameter", "at"),
        ({"jobtype": "a", "data": "x", "at": 1.5}, "bad-body", "at"),
        ({"jobtype": "a", "data": "x", "at": True}, "bad-body", "at"),
        (
            {"jobtype": "a", "data": "x", "at": "1795512600000", "delay": "1s"},
            "bad-parameter",
            "at",
        ),
        ({"jobtype": "a", "data": "x", "key": ""}, "bad-body", "key"),
        ({"jobtype": "a", "data": "x", "key": "\u00fc"}, "bad-body", "key"),
        ({"jobtype": "a", "data": "x", "key": "k" * 256}, "bad-body", "key"),
        ({"jobtype": "a", "data": "x", "priority": 1}, "bad-body", "priority"),
    ],
)
def test_a_bad_job_is_named_by_its_path_and_nothing_is_accepted(served, job, slug, path):
    reply = post(served, job)
    assert (reply.status, reply.slug, reply.document["path"]) == (400, slug, f".{path}")
    good = {"jobtype": "a", "data": "x"}
    reply = post(served, [good, good, job, good])
    assert (reply.status, reply.document["path"]) == (400, f"[2].{path}")
    assert not served.journal.records()


@pytest.mark.parametrize("member", ["jobtype", "client", "data", "delay", "at", "key"])
def test_a_number_beyond_all_bounds_is_refused_like_any_other_number(served, member):
    job = {b"jobtype": b'"a"', b"data": b'"x"', member.encode(): b"1e999"}
    body = b"{%b}" % b",".join(b'"%b":%b' % each for each in job.items())
    reply = post(served, body)
    assert (reply.status, reply.slug, reply.document["path"]) == (400, "bad-body", f".{member}")


def test_an_unknown_member_is_named_but_not_repeated_at_any_length(served):
    reply = post(served, {"jobtype": "a", "data": "x", "m" * 100_000: 1})
    assert (reply.slug, reply.document["path"]) == ("bad-body", "." + "m" * 64)


def test_a_time_too_far_off_is_refused_and_nothing_is_accepted(served):
    far = {"jobtype": "a", "data": "x", "at": "2100-01-01T00:00:00Z"}
    for document in (far, [{"jobtype": "b", "data": "x"}, far | {"key": "k"}]):
        assert post(served, document).slug == "bad-parameter"
    assert not served.journal.records()
    assert post(served, {"jobtype": "a", "data": "x", "key": "k"}).status == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"5",
        b'"a"',
        b"[]",
        b"[5]",
        b"[[]]",
        b"null",
        b'{"jobtype":"a","data":"x"',
        b'{"jobtype":"a","data":"x"}x',
        b'{"jobtype":"a","data":"\xff"}',
        b'{"jobtype":"a","json":"\xff"}',
        b'{"jobtype":"a","data":"\\ud800"}',
        b'{"jobtype":"a","json":nul}',
        b'{"jobtype":"a","json":' + b"[" * 100_000,
        b'\xef\xbb\xbf{"jobtype":"a","data":"x"}',
    ],
)
def test_what_is_not_json_or_not_a_job_is_refused(served, body):
    reply = post(served, body, *(["Content-Length: 0"] if not body else []))
    assert (reply.status, reply.slug) == (400, "bad-body")
    assert not served.journal.records()


def test_data_is_bounded_like_a_line(served):
    assert post(served, {"jobtype": "a", "data": "x" * LINE_MAX}).status == 202
    assert post(served, {"jobtype": "a", "data": "\x01" * LINE_MAX, "key": "k"}).status == 202
    reply = post(served, [{"jobtype": "a", "data": "x" * (LINE_MAX + 1)}])
    assert (reply.status, reply.slug, reply.document["path"]) == (413, "line-too-long", "[0].data")


def test_the_bound_holds_for_data_and_not_for_what_json_makes_of_it(served):
    data = "\x01" * LINE_MAX
    jobs = [{"jobtype": "a", "data": data}, {"jobtype": "b", "data": data}]
    assert post(served, jobs).status == 202
    assert [line["data"] for line in lines_of(served)[1]] == [data, data]


def test_the_number_of_jobs_is_bounded(served):
    job = b'{"jobtype":"a","data":"x"}'
    assert post(served, b"[" + b",".join([job] * JSON_JOBS_MAX) + b"]").status == 202
    reply = post(served, b"[" + b",".join([job] * (JSON_JOBS_MAX + 1)) + b"]")
    assert (reply.status, reply.slug) == (413, "body-too-large")


def test_a_parameter_that_is_not_known_is_refused(served):
    reply = post(served, {"jobtype": "a", "data": "x"}, query="?jobtype=a")
    assert (reply.status, reply.slug) == (400, "bad-parameter")


def test_the_level_of_durability_is_honoured(either):
    reply = post(either, {"jobtype": "a", "data": "x"}, query="?durability=store")
    assert reply.headers["slimq-durability"] == "store"
    reply = post(either, {"jobtype": "a", "data": "x", "key": "k"}, query="?durability=store")
    assert reply.headers["slimq-durability"] == "store"
    assert len(either.node.stored_up_to) == 2


def test_what_the_journal_refuses_is_answered(either):
    either.journal.refused = DiskFull("full")
    assert post(either, {"jobtype": "a", "data": "x"}).status == 507
    either.journal.refused = None
    either.journal.fail()
    jobs = [{"jobtype": "a", "data": "x", "key": "k"}, {"jobtype": "b", "data": "y"}]
    assert post(either, jobs).status == 503
    either.journal.heal()
    assert "replayed" not in post(either, jobs).document


def test_jobs_with_known_keys_are_replayed_in_place_and_the_rest_is_accepted(either):
    first = post(either, {"jobtype": "a", "data": "1", "key": "k1"}).document["ids"]
    either.node.store.uses["main/a", "k2"] = KeyUse(
        "0000001-aaaaaaaa-0000", 1, digest_of(either, "2")
    )
    jobs = [
        {"jobtype": "a", "data": "0"},
        {"jobtype": "a", "data": "1", "key": "k1"},
        {"jobtype": "a", "data": "2", "key": "k2"},
        {"jobtype": "a", "data": "3", "key": "k3"},
    ]
    document = post(either, jobs).document
    assert document["ids"][1:3] == [first[0], "0000001-aaaaaaaa-0000"]
    assert (document["count"], document["replayed"]) == (4, 2)
    lines = [json.loads(line) for line in either.journal.records()[-1][1]]
    assert [line["data"] for line in lines] == ["0", "3"]
    assert "key" not in lines[0]
    again = post(either, jobs[1:])
    assert again.document["ids"] == document["ids"][1:]
    assert again.headers["slimq-replayed"] == "true"


def digest_of(served, data):
    post(served, {"jobtype": "probe", "data": data, "key": data})
    return served.journal.records()[-1][0].digest


def test_a_key_with_other_data_refuses_the_whole_request(either):
    post(either, {"jobtype": "a", "data": "1", "key": "k"})
    jobs = [
        {"jobtype": "a", "data": "1", "key": "fresh"},
        {"jobtype": "a", "data": "2", "key": "k"},
    ]
    reply = post(either, jobs)
    assert (reply.status, reply.slug, reply.document["key"]) == (422, "key-reused", "k")
    assert len(either.journal.records()) == 1
    assert post(either, jobs[0]).document.get("replayed") is None


def test_one_key_twice_in_a_request_is_one_job_or_refused(either):
    job = {"jobtype": "a", "data": "1", "key": "k"}
    document = post(either, [job, job]).document
    assert document["ids"][0] == document["ids"][1]
    assert document["replayed"] == 1
    assert len(lines_of(either)[1]) == 1
    reply = post(either, [job | {"key": "x"}, job | {"key": "x", "data": "2"}])
    assert (reply.status, reply.slug, reply.document["path"]) == (422, "key-reused", "[1].key")


def test_a_key_means_the_same_on_both_routes(either):
    with either.wire() as wire:
        ids = wire.request("/add?jobtype=a", b"x\n", "Idempotency-Key: k").document["ids"]
    assert post(either, {"jobtype": "a", "data": "x", "key": "k"}).document["ids"] == ids


def test_an_idempotency_key_header_is_the_key_of_one_job_and_of_no_more(either):
    job = {"jobtype": "a", "data": "x"}
    first = post(either, job, "Idempotency-Key: k")
    assert post(either, job, "Idempotency-Key: k").headers["slimq-replayed"] == "true"
    assert post(either, job | {"key": "k"}).document["ids"] == first.document["ids"]
    for document in ([job, job], job | {"key": "k"}):
        assert post(either, document, "Idempotency-Key: k2").slug == "bad-parameter"


def test_while_a_key_is_in_flight_the_whole_request_is_refused(either):
    either.journal.hold()
    body = json.dumps({"jobtype": "a", "data": "x", "key": "k"})
    with either.wire() as wire:
        head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.send((head + body).encode())
        assert wire.silent()
        jobs = [{"jobtype": "b", "data": "x"}, {"jobtype": "a", "data": "x", "key": "k"}]
        reply = post(either, jobs)
        assert (reply.status, reply.slug) == (409, "key-in-flight")
        either.journal.release()
        assert wire.reply().status == 202
    assert len(either.journal.records()) == 1


def test_ingested_records_leave_no_keys_behind(either):
    post(either, [{"jobtype": t, "data": "x", "key": "k"} for t in "abc"])
    headers = [header for header, _ in either.journal.records()]
    assert either.call(lambda: len(either.acceptor.keys)) == 3
    either.call(lambda: either.acceptor.ingested(headers))
    assert either.call(lambda: len(either.acceptor.keys)) == 0
