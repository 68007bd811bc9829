"""No caller may take its time at the cost of others."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack, suppress

import pytest

from proof_kit import is_release
from slimq.api.surface import Deadlines

SHORT = Deadlines(header_s=0.3, body_idle_s=0.3, keep_alive_s=0.3, linger_s=0.3)
HEAD = b"POST /add?jobtype=a HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("start", [b"P", HEAD])
def test_a_head_that_does_not_arrive_in_time_is_answered_and_ends_the_connection(serve, start):
    served = serve(deadlines=SHORT)
    with served.wire() as wire:
        wire.send(start)
        reply = wire.reply()
        assert (reply.status, reply.slug) == (408, "request-timeout")
        assert wire.closed()


def test_a_head_that_drips_does_not_extend_its_deadline(serve):
    served = serve(deadlines=SHORT)
    with served.wire() as wire:
        start = time.monotonic()
        for byte in HEAD:
            wire.send(bytes([byte]))
            if not wire.silent(0.05):
                break
        assert wire.reply().status == 408
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("target", ["/add?jobtype=a", "/echo"])
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_falls_silent_is_answered_and_nothing_of_it_is_accepted(serve, target, framing):
    served = serve(deadlines=SHORT)
    with served.wire() as wire:
        wire.send(f"POST {target} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
        wire.send(b"6\r\nwhole\n\r\n")
        reply = wire.reply()
        assert (reply.status, reply.slug) == (408, "request-timeout")
        assert wire.closed()
    assert not served.journal.records()
    assert not served.app_calls


def test_a_body_may_take_long_as_long_as_it_goes_on(serve):
    served = serve(deadlines=SHORT)
    with served.wire() as wire:
        wire.send(HEAD + b"Content-Length: 8\r\n\r\n")
        for _ in range(8):
            assert wire.silent(0.1)
            wire.send(b"x")
        assert wire.reply().status == 202


def test_a_silent_connection_is_closed_without_a_word(serve):
    served = serve(deadlines=SHORT)
    with served.wire() as fresh, served.wire() as used:
        assert used.request("/add?jobtype=a", b"x").status == 202
        assert fresh.closed()
        assert used.closed()


def test_a_running_request_has_no_deadline(serve):
    served = serve(deadlines=SHORT)
    served.journal.hold()
    with served.wire() as add, served.wire() as get:
        add.send(HEAD + b"Content-Length: 1\r\n\r\nx")
        get.send(b"GET /gated HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert add.silent(0.8)
        served.journal.release()
        served.call(served.app_gate.set)
        assert add.reply().status == 202
        assert get.reply().status == 200


def test_a_caller_that_does_not_read_its_answer_is_cut_off(serve):
    served = serve(deadlines=SHORT)
    with served.wire() as wire:
        wire.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert served.until(lambda: served.server.connections == 0, 5)


def test_a_refused_upload_that_never_ends_is_cut_off(serve):
    served = serve(deadlines=SHORT, body_max=10)
    with served.wire() as wire:
        wire.send(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        assert wire.reply().status == 413
        start = time.monotonic()
        assert wire.closed()  # its half; ours goes on
        with suppress(ConnectionError):
            while time.monotonic() - start < 5:
                wire.send(b"x" * 1000)
        assert time.monotonic() - start < 2


def half_a_head(wire) -> None:
    wire.send(HEAD)


def half_a_body(wire) -> None:
    wire.send(HEAD + b"Content-Length: 100\r\n\r\nhalf")


def half_a_chunk(wire) -> None:
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf")


def half_a_call_of_the_app(wire) -> None:
    wire.send(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")


SLOW = (half_a_head, half_a_body, half_a_chunk, half_a_call_of_the_app)
MARGIN_S = 3  # on a busy machine; they are ended one by one


@pytest.mark.proof("T17")
def test_many_slow_callers_are_ended_in_time_and_good_ones_are_answered_meanwhile(serve, proof):
    deadlines = Deadlines() if is_release() else SHORT._replace(header_s=1, body_idle_s=1)
    count = proof.size(submission=200, release=2_000)
    allow_files(4 * count)
    served = serve(deadlines=deadlines)
    good = 0
    with ExitStack() as stack:
        wires = [stack.enter_context(served.wire()) for _ in range(count)]
        begun = time.monotonic()
        for number, wire in enumerate(wires):
            SLOW[number % len(SLOW)](wire)
            if number % len(SLOW) == 0:
                wire.send(b"X: dripping")  # which extends no deadline
        bound = max(deadlines.header_s, deadlines.body_idle_s)
        with served.wire() as caller:
            while served.server.connections > 1:
                assert caller.request("/add?jobtype=a", b"x").status == 202
                good += 1
                assert time.monotonic() - begun < bound + MARGIN_S
        for wire in wires:
            assert wire.reply().status == 408
            assert wire.closed()
    assert good > 0
    assert sum(header.count for header, _ in served.journal.records()) == good
    proof.report(callers=count, answered_meanwhile=good)


def allow_files(count: int) -> None:
    """Let this process open so many files, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))
