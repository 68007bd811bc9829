"""What a target may do to the connection, whoever calls it: libcurl, or our own caller."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
from runner_kit import Seen, Target, answer, batch_of, on_loop, run_once, until_closed

from slimq.core import status
from slimq.core.job import Ran, Result
from slimq.core.limits import ANSWER_HEAD_MAX
from slimq.runner.http import HttpRunner

MakeRunner = Callable[..., HttpRunner]


def says(target: Target, *pieces: bytes) -> None:
    """Let the target answer with these pieces, each in a packet of its own, and keep open."""

    def behave(wire: socket.socket, _: Seen) -> bytes:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces[:-1]:
            wire.sendall(piece)
        return pieces[-1]

    target.behaviours["it"] = behave


def once(runner: HttpRunner, target: Target, data: bytes = b"x", timeout: str = "5s") -> Result:
    ran = run_once(runner, batch_of("http", target.url("it"), [data], timeout=timeout))
    return ran.results[0]


def times(count: int, runner: HttpRunner, target: Target) -> list[Result]:
    """Run a job after another with one runner."""

    async def all_of_them() -> list[Result]:
        batch = batch_of("http", target.url("it"), [b"x"])
        rans: list[Ran] = [await runner.run(batch) for _ in range(count)]
        await runner.close()
        return [ran.results[0] for ran in rans]

    done: list[Result] = on_loop(all_of_them)
    return done


# Forms of an answer.

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\nhi", b"hi"),
        (HEAD + b"content-LENGTH:2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", b"hi"),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
        (CHUNKED + b"1;a=b\r\nh\r\n01\r\ni\r\n0\r\n\r\n", b"hi"),
        (CHUNKED + b"A\r\n0123456789\r\n0\r\nSlimq-Status: 500\r\n\r\n", b"0123456789"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (HEAD + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 204 No\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hi"), b"hi"),
        (b"HTTP/1.1 102 On it\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + answer(b"hi"), b"hi"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_connection_is_used_again_after_any_complete_answer(
    target: Target, http_runner: MakeRunner, said: bytes, text: bytes, cut: bool
) -> None:
    says(target, *([said[at : at + 1] for at in range(len(said))] if cut else [said]))
    results = times(2, http_runner(), target)
    assert [result.status for result in results] == [int(said.rpartition(b"HTTP/1.1 ")[2][:3])] * 2
    assert [(result.text, result.error) for result in results] == [(text, "")] * 2
    assert target.connections == 1


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n"]
)
def test_an_answer_without_a_length_goes_on_to_the_end(
    target: Target, http_runner: MakeRunner, head: bytes
) -> None:
    target.behaviours["it"] = lambda wire, _: wire.sendall(head + b"\r\nall of it")
    results = times(2, http_runner(), target)
    assert [(result.status, result.text) for result in results] == [(200, b"all of it")] * 2
    assert target.connections == 2


@pytest.mark.parametrize("named", [b"close", b"Close"])
def test_a_target_that_wants_to_close_is_left(
    target: Target, http_runner: MakeRunner, named: bytes
) -> None:
    says(target, HEAD + b"Connection: " + named + b"\r\nContent-Length: 2\r\n\r\nhi")
    assert [result.text for result in times(2, http_runner(), target)] == [b"hi"] * 2
    assert target.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        HEAD + b"Content-Length: -2\r\n\r\nhi",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        CHUNKED + b"xyz\r\nhi\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nhi and more\r\n0\r\n\r\n",
        HEAD + b"A: b\x00\r\nContent-Length: 2\r\n\r\nhi",
        HEAD + b"no colon here\r\nContent-Length: 2\r\n\r\nhi",
        HEAD + b"Transfer-Encoding: rot13\r\n\r\nuv",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi",
        b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"hi",
    ],
)
def test_a_malformed_answer_is_an_error(
    target: Target, http_runner: MakeRunner, said: bytes
) -> None:
    target.behaviours["it"] = lambda wire, _: wire.sendall(said)
    result = once(http_runner(), target)
    assert (result.status, result.text) == (status.NO_RESULT, b"")
    assert result.error.isprintable()
    assert len(target.seen) == 1


# Bounds.


def test_no_end_of_interim_answers_is_an_error(target: Target, http_runner: MakeRunner) -> None:
    def endless(wire: socket.socket, _: Seen) -> None:
        while True:
            wire.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)

    target.behaviours["it"] = endless
    result = once(http_runner(), target)
    assert result.error == f"the headers of the answer are over {ANSWER_HEAD_MAX} bytes"


@pytest.mark.parametrize("start", [CHUNKED + b"2;", CHUNKED + b"0\r\nA: "])
def test_no_end_of_what_frames_a_body_is_an_error(
    target: Target, http_runner: MakeRunner, start: bytes
) -> None:
    def endless(wire: socket.socket, _: Seen) -> None:
        wire.sendall(start)
        while True:
            wire.sendall(b"x" * 65_536)

    target.behaviours["it"] = endless
    result = once(http_runner(), target, timeout="2s")
    assert result.status in (status.NO_RESULT, status.TIMEOUT)
    assert target.closed.acquire(timeout=5)


def test_a_head_of_the_longest_kind_is_read(target: Target, http_runner: MakeRunner) -> None:
    filler = b"X: " + b"y" * 8_000 + b"\r\n"
    says(target, HEAD + filler * 7 + b"Content-Length: 2\r\n\r\nhi")
    assert once(http_runner(), target).text == b"hi"


def test_a_body_of_the_smallest_chunks_is_read(target: Target, http_runner: MakeRunner) -> None:
    says(target, CHUNKED + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n")
    assert once(http_runner(), target).text == b"x" * 60_000


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", CHUNKED + b"5\r\n"])
def test_a_drip_is_cut_off_at_the_timeout(
    target: Target, http_runner: MakeRunner, start: bytes
) -> None:
    def drip(wire: socket.socket, _: Seen) -> None:
        wire.sendall(start)
        until_closed(wire)

    target.behaviours["it"] = drip
    result = once(http_runner(), target, timeout="200ms")
    assert (result.status, result.error) == (status.TIMEOUT, "no complete answer within 200 ms")


def test_a_timeout_counts_for_one_request_and_not_for_the_next_on_its_connection(
    target: Target, http_runner: MakeRunner
) -> None:
    said = answer(b"")

    def slowly(wire: socket.socket, seen: Seen) -> bytes | None:
        if seen.body != b"slow":
            return said
        wire.settimeout(1.5)
        try:
            wire.recv(1)
        except TimeoutError:
            return said
        return None

    target.behaviours["it"] = slowly

    async def three() -> list[int]:
        runner, statuses = http_runner(), []
        for data, timeout in ((b"x", "1s"), (b"slow", "10s"), (b"slow", "100ms")):
            batch = batch_of("http", target.url("it"), [data], timeout=timeout)
            statuses.append((await runner.run(batch)).results[0].status)
        await runner.close()
        return statuses

    assert on_loop(three) == [200, 200, status.TIMEOUT]
    assert target.connections == 1


# Who may have which answer.


@pytest.mark.parametrize("extra", [b"junk", answer(b"of whom?"), b"\r\n" + answer(b"of whom?")])
def test_what_follows_an_answer_is_nobodys_answer(
    target: Target, http_runner: MakeRunner, extra: bytes
) -> None:
    says(target, answer(b"mine") + extra)
    assert [result.text for result in times(3, http_runner(), target)] == [b"mine"] * 3
    assert target.connections == 3


def test_an_answer_that_comes_before_all_was_read_counts(
    target: Target, http_runner: MakeRunner
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hasty() -> None:
            for _ in range(2):
                wire, _ = listener.accept()
                with wire:
                    wire.recv(1_000)
                    wire.sendall(answer(b"too much", "413 Too Large"))
                    until_closed(wire)

        async def twice() -> list[Result]:
            serving = asyncio.create_task(asyncio.to_thread(hasty))
            runner = http_runner()
            batch = batch_of("http", f"http://127.0.0.1:{port}/", [b"x" * (1 << 25)])
            results = [(await runner.run(batch)).results[0] for _ in range(2)]
            await runner.close()
            await serving
            return results

        results = on_loop(twice)
    assert [(result.status, result.text) for result in results] == [(413, b"too much")] * 2


# Connections that end.


def test_a_kept_connection_that_ends_without_a_byte_is_replaced_and_the_request_sent_again(
    target: Target, http_runner: MakeRunner
) -> None:
    """As when a target closes it in the moment that the request is on its way."""
    target.behaviours["it"] = lambda _, seen: None if len(target.seen) == 2 else answer(b"mine")
    assert [result.text for result in times(3, http_runner(), target)] == [b"mine"] * 3
    assert [seen.connection for seen in target.seen] == [1, 1, 2, 2]
    assert target.seen[1].one("idempotency-key") == target.seen[2].one("idempotency-key")


def test_a_request_whose_answer_began_is_not_sent_again(
    target: Target, http_runner: MakeRunner
) -> None:
    def behave(wire: socket.socket, _: Seen) -> bytes | None:
        if len(target.seen) != 2:
            return answer(b"mine")
        wire.sendall(HEAD)
        return None

    target.behaviours["it"] = behave
    results = times(3, http_runner(), target)
    assert [result.status for result in results] == [200, status.NO_RESULT, 200]
    assert len(target.seen) == 3


def test_a_new_connection_that_ends_without_a_byte_is_an_error_at_once(
    target: Target, http_runner: MakeRunner
) -> None:
    target.behaviours["it"] = lambda _, seen: None
    result = once(http_runner(), target)
    assert result.status == status.NO_RESULT
    assert result.error
    assert len(target.seen) == 1


@pytest.mark.parametrize("start", [b"", HEAD + b"Content-Length: 100\r\n\r\nhi", HEAD + b"\r\nhi"])
def test_a_connection_that_breaks_is_an_error(
    target: Target, http_runner: MakeRunner, start: bytes
) -> None:
    def reset(wire: socket.socket, _: Seen) -> None:
        wire.sendall(start)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    target.behaviours["it"] = reset
    result = once(http_runner(), target)
    assert (result.status, result.text) == (status.NO_RESULT, b"")


def test_a_target_that_only_stops_talking_has_answered(
    target: Target, http_runner: MakeRunner
) -> None:
    def half(wire: socket.socket, _: Seen) -> None:
        wire.sendall(answer(b"mine"))
        wire.shutdown(socket.SHUT_WR)
        until_closed(wire)

    target.behaviours["it"] = half
    assert [result.text for result in times(2, http_runner(), target)] == [b"mine"] * 2


@pytest.mark.parametrize("ends", ["cancelled", "timeout"])
def test_a_request_that_ends_while_it_connects_leaves_nothing(
    http_runner: MakeRunner, ends: str
) -> None:
    """The queue of the listener is full: it drops the first packet of all others. The fixture
    of every test looks for descriptors."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as filler:
        filler.connect(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        batch = batch_of("http", url, [b"x"], timeout="1h" if ends == "cancelled" else "200ms")

        async def connect() -> None:
            runner = http_runner()
            run = asyncio.create_task(runner.run(batch))
            if ends == "cancelled":
                await asyncio.wait([run], timeout=0.1)
                run.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await run
            else:
                assert (await run).results[0].status == status.TIMEOUT
            await runner.close()

        on_loop(connect)


# URLs.


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/it#fragment", "/it"),
        ("/it?a=b&c=/?#f?x", "/it?a=b&c=/?"),
        ("/%41~:@!$&'()*+,;=-._", "/%41~:@!$&'()*+,;=-._"),
        ("/a//b/", "/a//b/"),
        ("/.hidden/..more/x..", "/.hidden/..more/x.."),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2E/c", "/c"),
        ("/a/..", "/"),
        ("/a|b{c}[d]\"'<>^`", "/a|b{c}[d]\"'<>^`"),
    ],
)
def test_a_url_is_asked_for_in_the_same_form_by_every_caller(
    http_runner: MakeRunner, written: str, asked: str
) -> None:
    class Any(dict[str, object]):
        def __missing__(self, _: str) -> object:
            return lambda wire, seen: answer(b"")

    with Target(Any()).serving() as target:  # type: ignore[arg-type]
        url = target.url("").rstrip("/") + written
        assert run_once(http_runner(), batch_of("http", url, [b"x"])).results[0].status == 200
    assert target.seen[0].target == asked
    assert target.seen[0].one("host") == f"127.0.0.1:{target.port}"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.1", "[::ffff:127.0.0.1]"])
def test_a_host_is_reached_by_any_of_its_names(
    target: Target, http_runner: MakeRunner, host: str
) -> None:
    """A target listens on 127.0.0.1 alone: where localhost is ::1 as well, that is refused."""
    target.behaviours["it"] = lambda _, seen: answer(b"mine")
    url = f"http://{host}:{target.port}/it"
    result = run_once(http_runner(), batch_of("http", url, [b"x"])).results[0]
    assert (result.status, result.text) == (200, b"mine")
