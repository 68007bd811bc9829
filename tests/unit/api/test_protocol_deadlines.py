"""No caller may take its time at the cost of others."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

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


def test_many_slow_callers_are_ended_and_a_good_one_is_answered_meanwhile(serve):
    served = serve(deadlines=SHORT)
    slow = [served.wire() for _ in range(200)]
    wires = [wire.__enter__() for wire in slow]
    try:
        for wire in wires:
            wire.send(HEAD)
        with served.wire() as good:
            assert good.request("/add?jobtype=a", b"x").status == 202
        assert [wire.reply().status for wire in wires] == [408] * 200
        assert all(wire.closed() for wire in wires)
    finally:
        for wire in slow:
            wire.__exit__(None, None, None)
