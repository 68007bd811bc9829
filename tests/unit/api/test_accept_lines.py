"""`POST /add`, on the connection and as a route of the app."""

from __future__ import annotations

import pytest

from slimq.core.limits import ALL_IDS_MAX, LINE_MAX, LIST_IDS_MAX
from slimq.errors import DiskFull, DurabilityUnmet

ADD = "/add?jobtype=mail"


def test_every_line_is_a_job_and_the_answer_names_their_ids_in_order(either):
    with either.wire() as wire:
        reply = wire.request(ADD, b"one\ntwo\nthree")
    assert (reply.status, reply.headers["content-type"]) == (202, "application/json")
    assert reply.headers["slimq-durability"] == "journal"
    assert "location" not in reply.headers
    ((header, lines),) = either.journal.records()
    assert lines == [b"one", b"two", b"three"]
    assert (header.type, header.count, header.dt) == ("main/mail", 3, 0)
    ids = reply.document["ids"]
    assert reply.document == {"ok": True, "count": 3, "ids": ids}
    assert ids == sorted(ids)
    assert ids[0] == header.id


def test_one_job_has_a_location(either):
    with either.wire() as wire:
        reply = wire.request(ADD, b"one")
    assert reply.headers["location"] == "/jobs/" + reply.document["ids"][0]


def test_ids_increase_from_request_to_request(either):
    with either.wire() as wire:
        ids = [wire.request(ADD, b"x").document["ids"][0] for _ in range(50)]
    assert ids == sorted(set(ids))


def test_text_is_one_id_a_line(either):
    with either.wire() as wire:
        reply = wire.request(ADD, b"a\nb\n", "Accept: text/plain")
    assert reply.headers["content-type"].startswith("text/plain")
    assert [len(line) for line in reply.body.decode().splitlines()] == [21, 21]


def test_above_a_thousand_lines_only_the_ends_are_named_unless_all_are_asked_for(either):
    body = b"x\n" * (LIST_IDS_MAX + 1)
    with either.wire() as wire:
        exact = wire.request(ADD, body[2:]).document
        ends = wire.request(ADD, body).document
        text = wire.request(ADD, body, "Accept: text/plain").body.decode()
        every = wire.request(ADD + "&ids=all", body).document
        every_text = wire.request(ADD + "&ids=all", body, "Accept: text/plain").body
    assert len(exact["ids"]) == LIST_IDS_MAX
    assert ends.keys() == {"ok", "count", "first", "last"}
    assert ends["count"] == LIST_IDS_MAX + 1
    assert len(text) == 45
    assert text[21:23] == ".."
    assert len(set(every["ids"])) == LIST_IDS_MAX + 1
    assert every_text.count(b"\n") == LIST_IDS_MAX + 1


def test_all_ids_of_more_lines_than_an_answer_holds_are_refused_before_anything_is_accepted(either):
    with either.wire() as wire:
        reply = wire.request(ADD + "&ids=all", b"\n" * (ALL_IDS_MAX + 1))
    assert (reply.status, reply.slug) == (413, "body-too-large")
    assert not either.journal.records()


def test_all_bytes_but_the_newline_are_payload(either):
    every = bytes(byte for byte in range(256) if byte != 10)
    lines = [every, b"", b"#J: a|b", b"\r", b"  lead", "\u2028\u0085".encode(), b"\x00", b"|"]
    with either.wire() as wire:
        reply = wire.request(ADD, b"\n".join(lines) + b"\n")
    assert reply.document["count"] == len(lines)
    assert either.journal.records()[0][1] == lines


@pytest.mark.parametrize(
    ("body", "count"),
    [(b"\n", 1), (b"\n\n", 2), (b"a\n\nb", 3), (b"a\r\nb\r\n", 2), (b"\r", 1), (b"a\n\n", 2)],
)
def test_an_empty_line_is_a_job_and_the_end_of_the_body_is_not(either, body, count):
    with either.wire() as wire:
        assert wire.request(ADD, body).document["count"] == count


def test_a_body_without_a_line_is_refused(either):
    with either.wire() as wire:
        reply = wire.request(ADD, b"", "Content-Length: 0")
    assert (reply.status, reply.slug) == (400, "bad-body")
    assert "line" in reply.document["detail"]
    assert not either.journal.records()


def test_the_content_type_of_the_body_changes_nothing(either):
    for kind in ("application/x-www-form-urlencoded", "application/json", "multipart/form-data"):
        with either.wire() as wire:
            assert wire.request(ADD, b"a=1&b=2", f"Content-Type: {kind}").status == 202
    assert [lines for _, lines in either.journal.records()] == [[b"a=1&b=2"]] * 3


def test_a_chunked_body_is_joined_however_it_is_cut(either):
    body = bytes(range(256)) * 8
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with either.wire() as wire:
        wire.send(head.encode() + chunks + b"0\r\n\r\n")
        assert wire.reply().document["count"] == 9
        assert wire.request(ADD, b"next").status == 202
    assert b"\n".join(either.journal.records()[0][1]) == body


def test_a_line_of_exactly_the_limit_is_accepted_and_a_longer_one_named(either):
    with either.wire() as wire:
        assert wire.request(ADD, b"a" * LINE_MAX + b"\nb").document["count"] == 2
    for body in (b"a\n" + b"b" * (LINE_MAX + 1), b"a\n" + b"b" * (LINE_MAX + 1) + b"\nc"):
        with either.wire() as wire:
            reply = wire.request(ADD, body)
        assert (reply.status, reply.slug, reply.document["line"]) == (413, "line-too-long", 2)
    assert len(either.journal.records()) == 1


@pytest.mark.parametrize("surface", ["connection", "app"])
def test_a_body_over_the_limit_is_refused_before_and_while_it_arrives(serve, surface):
    served = serve(surface=surface, body_max=1000)
    head = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\n"
    with served.wire() as wire:
        assert wire.request(ADD, b"a\n" * 500).status == 202
    with served.wire() as wire:
        wire.send(f"{head}Content-Length: 1001\r\n\r\n".encode())
        reply = wire.reply()
        assert (reply.status, reply.slug) == (413, "body-too-large")
    with served.wire() as wire:
        wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        wire.send(b"3e9\r\n" + b"a\n" * 500 + b"x\r\n0\r\n\r\n")
        assert wire.reply().slug == "body-too-large"
    assert len(served.journal.records()) == 1


def test_a_large_body_goes_through_a_file_and_arrives_whole(serve, either):
    line = bytes(byte for byte in range(256) if byte != 10) * 100
    body = (line + b"\n") * 1400
    with either.wire() as wire:
        assert wire.request(ADD, body).document["count"] == 1400
    assert either.journal.records()[0][1] == [line] * 1400


def test_options_reach_the_journal(either):
    with either.wire() as wire:
        wire.request("/add?jobtype=b&client=acme&delay=90s", b"x")
        wire.request("/add?jobtype=b&at=2027-01-01T00:00:00Z", b"x")
        wire.request("/add?jobtype=b&at=2001-01-01T00:00:00Z", b"x")
    first, second, third = (header for header, _ in either.journal.records())
    assert (first.type, first.dt - first.at) == ("acme/b", 90_000)
    assert second.dt == 1_798_761_600_000
    assert third.dt == 0


def test_a_legal_traceparent_reaches_the_journal_and_another_is_ignored(either):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with either.wire() as wire:
        assert wire.request(ADD, b"x", f"traceparent: {trace}").status == 202
        assert wire.request(ADD, b"x", "traceparent: nonsense").status == 202
    assert [header.trace for header, _ in either.journal.records()] == [trace, ""]


@pytest.mark.parametrize(
    ("target", "slug"),
    [
        ("/add", "bad-name"),
        ("/add?jobtype=a/b", "bad-name"),
        ("/add?jobtype=a&client=", "bad-name"),
        ("/add?jobtype=a&jobtype=b", "bad-parameter"),
        ("/add?jobtype=a&queue=b", "bad-parameter"),
        ("/add?jobtype=a&delay=1s&at=2027-01-01T00:00:00Z", "bad-parameter"),
        ("/add?jobtype=a&at=2100-01-01T00:00:00Z", "bad-parameter"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_accepted(either, target, slug):
    with either.wire() as wire:
        reply = wire.request(target, b"x")
    assert (reply.status, reply.slug) == (400, slug)
    assert "slimq-durability" not in reply.headers
    assert not either.journal.records()


def test_an_error_is_text_for_those_who_ask_for_it(either):
    with either.wire() as wire:
        reply = wire.request("/add", b"x", "Accept: text/plain")
    assert reply.headers["content-type"].startswith("text/plain")
    assert b"jobtype" in reply.body


def test_a_journal_that_accepts_nothing_is_answered_before_the_body_is_read(either):
    either.journal.refused = DiskFull("the disk is full")
    with either.wire() as wire:
        wire.send(
            f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode()
        )
        reply = wire.reply()
    assert (reply.status, reply.slug, reply.headers["retry-after"]) == (507, "disk-full", "1")
    either.journal.refused = None
    with either.wire() as wire:
        assert wire.request(ADD, b"x").status == 202


def test_a_refusal_of_a_small_request_keeps_the_connection(served):
    served.journal.refused = DiskFull("the disk is full")
    with served.wire() as wire:
        for _ in range(3):
            assert wire.request(ADD, b"x").status == 507
        served.journal.refused = None
        assert wire.request(ADD, b"x").status == 202


def test_a_write_that_fails_is_answered_as_failed(either):
    either.journal.fail()
    with either.wire() as wire:
        reply = wire.request(ADD, b"x")
    assert (reply.status, reply.slug) == (503, "journal-failed")
    assert "slimq-durability" not in reply.headers


@pytest.mark.parametrize("key", [[], ["Idempotency-Key: k"]])
def test_a_journal_that_is_closed_is_answered(either, key):
    either.journal.stop_committing()
    with either.wire() as wire:
        for _ in range(2):
            reply = wire.request(ADD, b"x", *key)
            assert (reply.status, reply.slug) == (503, "shutting-down")
    assert either.journal.memory_used == 0


def test_durability_store_is_answered_when_the_store_has_the_jobs(either):
    with either.wire() as wire:
        reply = wire.request(ADD + "&durability=store", b"x")
    assert (reply.status, reply.headers["slimq-durability"]) == (202, "store")
    assert len(either.node.stored_up_to) == 1


def test_durability_is_never_downgraded(either):
    either.node.unmet = DurabilityUnmet("the store is down")
    with either.wire() as wire:
        reply = wire.request(ADD + "&durability=store", b"x")
        assert (reply.status, reply.slug) == (503, "durability-unmet")
        assert "slimq-durability" not in reply.headers
        assert reply.headers["retry-after"] == "1"
        assert wire.request(ADD, b"x").headers["slimq-durability"] == "journal"


def test_durability_buffered_is_named(either):
    with either.wire() as wire:
        reply = wire.request(ADD + "&durability=buffered", b"x")
    assert (reply.status, reply.headers["slimq-durability"]) == (202, "buffered")


@pytest.mark.parametrize(
    ("asked", "level"),
    [
        ("", "journal"),
        ("&durability=journal", "journal"),
        ("&durability=store", "journal"),
        ("&durability=buffered", "buffered"),
    ],
)
def test_only_who_asks_for_buffered_is_answered_before_the_sync(either, asked, level):
    with either.wire() as wire:
        assert wire.request(ADD + asked, b"x").status == 202
    assert either.journal.levels == [level]


def test_there_is_no_answer_before_the_journal_has_the_jobs(either):
    either.journal.hold()
    with either.wire() as wire:
        wire.send(f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx".encode())
        assert wire.silent()
        either.journal.release()
        assert wire.reply().status == 202


def test_a_body_that_is_cut_off_accepts_nothing(either):
    for framing in ("Content-Length: 20", "Transfer-Encoding: chunked"):
        with either.wire() as wire:
            head = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
            wire.send(head.encode() + b"6\r\nwhole\n\r\n")
            assert wire.silent(0.05)
    with either.wire() as wire:
        assert wire.request(ADD, b"next").status == 202
    assert [lines for _, lines in either.journal.records()] == [[b"next"]]
    assert either.until(lambda: either.journal.memory_used == 0, 5)


def test_a_caller_that_leaves_before_the_answer_disturbs_nobody(either):
    either.journal.hold()
    gone, stays = either.wire(), either.wire()
    with stays as wire:
        request = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"
        with gone as leaver:
            leaver.send(request.encode() + b"g")
            assert leaver.silent(0.05)
        wire.send(request.encode() + b"s")
        assert wire.silent(0.05)
        either.journal.release()
        assert wire.reply().status == 202
    assert [lines for _, lines in either.journal.records()] == [[b"g"], [b"s"]]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_another_method_is_answered_by_the_app_with_those_allowed(either, method):
    with either.wire() as wire:
        reply = wire.request(ADD, b"", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
