"""Idempotency-Key: one request, however often it is sent."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from slimq.api.options import AddOptions
from slimq.core.jobid import Minter
from slimq.errors import DurabilityUnmet, JournalFailed, StoreUnavailable
from slimq.journal.body import Body, BodyBudget
from slimq.journal.record import Header, JobLine
from slimq.store.base import KeyUse
from slimq.system.clock import SystemClock
from slimq.system.disk import SystemDisk

ADD = "/add?jobtype=mail"
KEY = "Idempotency-Key: order-7"


def forget(served):
    """The store takes everything in, as at ingest."""
    records = served.journal.records()
    for header, _ in records:
        if header.key:
            use = KeyUse(header.id, header.count, header.digest)
            served.node.store.uses.setdefault((header.type, header.key), use)
    served.call(lambda: served.acceptor.ingested([header for header, _ in records]))


@pytest.mark.parametrize("ingested", [False, True])
def test_the_same_key_and_body_get_the_same_ids_and_make_no_new_jobs(either, ingested):
    with either.wire() as wire:
        first = wire.request(ADD, b"a\nb\n", KEY)
        if ingested:
            forget(either)
        again = wire.request(ADD, b"a\nb\n", KEY)
    assert (first.status, again.status) == (202, 202)
    assert again.document == first.document
    assert again.headers["slimq-replayed"] == "true"
    assert "slimq-replayed" not in first.headers
    assert again.headers["slimq-durability"] == "journal"
    ((header, _),) = either.journal.records()
    assert header.key == "order-7"
    assert header.digest


@pytest.mark.parametrize("ingested", [False, True])
def test_the_same_key_with_another_body_is_refused(either, ingested):
    with either.wire() as wire:
        wire.request(ADD, b"a\n", KEY)
        if ingested:
            forget(either)
        reply = wire.request(ADD, b"b\n", KEY)
        assert (reply.status, reply.slug) == (422, "key-reused")
        assert wire.request(ADD, b"a\n", KEY).status == 202
    assert len(either.journal.records()) == 1


def test_a_key_belongs_to_its_type(either):
    with either.wire() as wire:
        wire.request(ADD, b"a", KEY)
        for target in (ADD + "&client=acme", "/add?jobtype=other"):
            reply = wire.request(target, b"b", KEY)
            assert reply.status == 202
            assert "slimq-replayed" not in reply.headers
    assert len(either.journal.records()) == 3


def test_requests_without_a_key_never_ask_the_store(either):
    with either.wire() as wire:
        wire.request(ADD, b"a")
    assert either.node.asked == 0


def test_while_a_request_is_in_flight_another_with_its_key_is_refused(either):
    either.journal.hold()
    with either.wire() as first, either.wire() as second:
        request = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n{KEY}\r\n\r\na"
        first.send(request.encode())
        assert first.silent()
        reply = second.request(ADD, b"a", KEY)
        assert (reply.status, reply.slug) == (409, "key-in-flight")
        either.journal.release()
        assert first.reply().status == 202
        assert second.request(ADD, b"a", KEY).headers["slimq-replayed"] == "true"


def test_a_key_is_in_flight_also_while_the_store_is_asked(either):
    gate = either.node.gate = asyncio.Event()
    with either.wire() as first, either.wire() as second:
        request = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n{KEY}\r\n\r\na"
        first.send(request.encode())
        assert first.silent()
        assert second.request(ADD, b"a", KEY).status == 409
        either.call(gate.set)
        assert first.reply().status == 202
    assert len(either.journal.records()) == 1


def test_of_many_concurrent_requests_with_one_key_one_wins(either):
    wires = [either.wire() for _ in range(20)]
    opened = [wire.__enter__() for wire in wires]
    request = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n{KEY}\r\n\r\na"
    for wire in opened:
        wire.send(request.encode())
    replies = [wire.reply() for wire in opened]
    for wire in wires:
        wire.__exit__(None, None, None)
    assert {reply.status for reply in replies} <= {202, 409}
    accepted = [reply for reply in replies if reply.status == 202]
    assert len({reply.document["ids"][0] for reply in accepted}) == 1
    assert sum("slimq-replayed" not in reply.headers for reply in accepted) == 1
    assert len(either.journal.records()) == 1


def test_a_key_whose_write_failed_can_be_used_again(either):
    either.journal.fail()
    with either.wire() as wire:
        assert wire.request(ADD, b"a", KEY).status == 503
        either.journal.heal()
        reply = wire.request(ADD, b"a", KEY)
    assert reply.status == 202
    assert "slimq-replayed" not in reply.headers


def test_a_key_whose_request_was_refused_can_be_used_again(either):
    with either.wire() as wire:
        late = "&at=2100-01-01T00:00:00Z"
        assert wire.request(ADD + late, b"a", KEY).status == 400
    with either.wire() as wire:
        assert wire.request(ADD, b"", KEY, "Content-Length: 0").status == 400
    with either.wire() as wire:
        assert wire.request(ADD, b"a", KEY).status == 202


def test_while_the_store_is_down_keys_are_taken_and_replayed_from_here(either):
    either.node.down = StoreUnavailable("down")
    with either.wire() as wire:
        first = wire.request(ADD, b"a", KEY)
        again = wire.request(ADD, b"a", KEY)
    assert first.document == again.document
    assert again.headers["slimq-replayed"] == "true"


def test_a_bug_behind_a_key_is_answered_and_leaves_the_key_free(either):
    either.node.down = ZeroDivisionError()
    with either.wire() as wire:
        assert wire.request(ADD, b"a", KEY).status == 500
        either.node.down = None
        assert wire.request(ADD, b"a", KEY).status == 202


def test_a_replay_waits_for_the_level_that_it_asks_for(either):
    with either.wire() as wire:
        first = wire.request(ADD, b"a", KEY)
        again = wire.request(ADD + "&durability=store", b"a", KEY)
        assert again.document == first.document
        assert again.headers["slimq-durability"] == "store"
        assert len(either.node.stored_up_to) == 1
        either.node.unmet = DurabilityUnmet("too long")
        assert wire.request(ADD + "&durability=store", b"a", KEY).status == 503
        forget(either)
        assert wire.request(ADD + "&durability=store", b"a", KEY).status == 202


def test_a_replay_is_never_a_silent_downgrade(either):
    with either.wire() as wire:
        assert wire.request(ADD + "&durability=buffered", b"a", KEY).status == 202
        reply = wire.request(ADD, b"a", KEY)
        assert (reply.status, reply.slug) == (503, "durability-unmet")
        assert wire.request(ADD + "&durability=buffered", b"a", KEY).status == 202
        assert either.until(either.journal.records, 5)  # synced, and so readable
        forget(either)
        assert wire.request(ADD, b"a", KEY).headers["slimq-replayed"] == "true"


def test_keys_found_in_the_journal_at_start_are_known(either):
    with either.wire() as wire:
        digest = digest_of(either, wire)
        ids = Minter("aaaaaaaa").block(3, SystemClock().wall_ms()).ids()
        header = Header(
            kind="lines", id=ids[0], count=2, at=5, type="main/mail",
            key="order-7", digest=digest,
        )  # fmt: skip
        line = JobLine(type="main/x", data="a", key="k", digest=digest)
        jobs = Header(kind="jobs", id=ids[2], count=1, at=5)
        either.call(lambda: either.acceptor.restore(header))
        either.call(lambda: either.acceptor.restore(jobs, [line]))
        reply = wire.request(ADD, b"a\n", KEY)
        assert reply.document["ids"] == ids[:2]
        reply = wire.request("/add?jobtype=x", b"a\n", "Idempotency-Key: k")
        assert reply.document["ids"] == ids[2:]
        reply = wire.request(ADD + "&durability=store", b"a\n", KEY)
        assert (reply.status, reply.slug) == (503, "durability-unmet")


def digest_of(served, wire):
    """The digest of the body ``a``, whatever the journal makes of it."""
    wire.request("/add?jobtype=probe", b"a\n", "Idempotency-Key: probe")
    return served.journal.records()[0][0].digest


def test_the_table_of_keys_is_bounded(serve):
    served = serve(keys_max=2)
    with served.wire() as wire:
        for key in ("1", "2"):
            assert wire.request(ADD, b"a", f"Idempotency-Key: {key}").status == 202
        reply = wire.request(ADD, b"a", "Idempotency-Key: 3")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert wire.request(ADD, b"a", "Idempotency-Key: 1").status == 202
        assert wire.request(ADD, b"a").status == 202
        forget(served)
        assert wire.request(ADD, b"a", "Idempotency-Key: 3").status == 202


def test_a_malformed_key_is_refused(either):
    for field in ("Idempotency-Key:", "Idempotency-Key: " + "k" * 256):
        with either.wire() as wire:
            reply = wire.request(ADD, b"a", field)
        assert (reply.status, reply.slug) == (400, "bad-parameter")


def test_two_keys_in_one_request_are_refused(either):
    with either.wire() as wire:
        assert wire.request(ADD, b"a", KEY, "Idempotency-Key: other").status == 400
    assert not either.journal.records()


class WatchedBody(Body):
    """A body that tells on which thread its digest was taken."""

    __slots__ = ("thread",)

    def digest(self):
        self.thread = threading.current_thread().name
        return super().digest()


class UnreadableDisk(SystemDisk):
    def pread(self, file, size, offset):
        raise OSError(errno.EIO, "planted")


def accept_with_key(served, body):
    body.feed(b"a line\n")
    body.finish()
    options = AddOptions("main/mail")
    return served.run(served.acceptor.accepted(options, body, "order-7", ""))


def test_the_digest_of_a_large_body_keeps_no_other_caller_waiting(either, tmp_path):
    budget = BodyBudget(tmp_path, disk=SystemDisk(), body_max=99, body_in_memory_max=0)
    body = WatchedBody(budget)
    assert accept_with_key(either, body).ids.count == 1
    assert body.thread != "loop"


def test_a_large_body_that_cannot_be_read_again_is_refused_and_given_back(either, tmp_path):
    budget = BodyBudget(tmp_path, disk=UnreadableDisk(), body_max=99, body_in_memory_max=0)
    body = Body(budget)
    with pytest.raises(JournalFailed):
        accept_with_key(either, body)
    assert body.spool is None
    assert not either.journal.records()
