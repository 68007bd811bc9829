"""No spelling of an address makes the runner talk to this machine or its network."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network

import pytest
from runner_kit import Target, answer, batch_of, http_runner, on_loop, run_once

from slimq.core import status
from slimq.core.job import Ran
from slimq.errors import BadHandler
from slimq.runner.http import HttpRunner

# {port} is where a canary listens on 127.0.0.1 and on ::1.
TARGETS = [
    "",
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}",
    "https://127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://127.8.9.10:{port}/",
    "http://127.255.255.254:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7F.1:{port}/",
    "http://0x7f.0x0.0x0.0x1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0177.0.0.01:{port}/",
    "http://017700000001:{port}/",
    "http://00000000177.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://127.000.000.001:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0x0:{port}/",
    "http://00.0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://localhost.localdomain:{port}/",
    "http://ip6-localhost:{port}/",
    "http://ip6-loopback:{port}/",
    "http://x.localhost:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://１２７.０.０.１:{port}/",
    "http://127。0。0。1:{port}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::0001]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[5f00::1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fe80::1%lo]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://[::1%lo]:{port}/",
    "http://[fd00:ec2::254]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://169.254.169.254:{port}/",
    "http://0xa9fea9fe:{port}/",
    "http://10.0.0.1:{port}/",
    "http://172.16.0.1:{port}/",
    "http://192.168.0.1:{port}/",
    "http://100.100.100.200:{port}/",
    "http://168.63.129.16:{port}/",
    "http://224.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://user:password@127.0.0.1:{port}/",
    "http://example.invalid@127.0.0.1:{port}/",
    "http://example.invalid:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.invalid/",
    "http://example.invalid#@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}?@example.invalid/",
    "http://127.0.0.1:{port}\\@example.invalid/",
    "http://example.invalid\\@127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://127%2e0%2e0%2e1:{port}/",
    "http://127.0.0.1%00.example.invalid:{port}/",
    "http://127.0.0.1%09:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "localhost:{port}",
    "gopher://127.0.0.1:{port}/_x",
    "ftp://127.0.0.1:{port}/",
    "telnet://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/x",
    "ws://127.0.0.1:{port}/",
    "",
][1:-1]
SPOILT = [
    "http://127.0.0.1:{port}/\r\nHost: x",
    "\thttp://127.0.0.1:{port}/",
    " http://localhost:{port}/",
]


class Canary:
    """Counts who comes, and what they say."""

    def __init__(self) -> None:
        self.visits = 0
        self.bytes = 0
        self.port = 0


@pytest.fixture
def canary() -> Iterator[Canary]:
    counted = Canary()
    with socket.create_server(("127.0.0.1", 0)) as four:
        counted.port = four.getsockname()[1]
        with socket.create_server(("::1", counted.port), family=socket.AF_INET6) as six:
            listeners = [four, six]
            threads = [threading.Thread(target=_count, args=(each, counted)) for each in listeners]
            for thread in threads:
                thread.start()
            yield counted
            for listener in listeners:
                listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def _count(listener: socket.socket, counted: Canary) -> None:
    with suppress(OSError):
        while True:
            visitor, _ = listener.accept()
            counted.visits += 1
            with visitor:
                visitor.settimeout(1)
                with suppress(TimeoutError):
                    counted.bytes += len(visitor.recv(65_536))


def test_the_table_is_long() -> None:
    assert len(TARGETS) + len(SPOILT) >= 60


def test_no_target_of_the_table_is_talked_to(canary: Canary) -> None:
    urls = [target.format(port=canary.port) for target in TARGETS + SPOILT]

    async def all_of_them() -> list[Ran]:
        runner = http_runner(allow=[])
        batches = [batch_of("http", url, [b"x"], timeout="2s") for url in urls]
        done = await asyncio.gather(*map(runner.run, batches))
        await runner.close()
        return done

    rans = on_loop(all_of_them)
    answered = [url for url, ran in zip(urls, rans, strict=True) if ran.results[0].status < 500]
    assert answered == []
    assert (canary.visits, canary.bytes) == (0, 0)


def test_the_canary_would_have_noticed(canary: Canary) -> None:
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"):
        before = canary.visits
        runner = http_runner(allow=[ip_network("127.0.0.0/8"), ip_network("::1/128")])
        run_once(runner, batch_of("http", f"http://{host}:{canary.port}/", [b"x"], timeout="2s"))
        assert canary.visits > before, host
    assert canary.bytes > 0


ACCEPTED_LATER = ("example.invalid", "localdomain", "x.localhost", "ip6-")


def refused_field(runner: HttpRunner, url: str) -> str | None:
    try:
        runner.check(batch_of("http", url, [b""]).handler)
    except BadHandler as refused:
        return str(refused.extra["field"])
    return None


def test_a_handler_is_refused_for_what_can_be_known_before(canary: Canary) -> None:
    runner = http_runner(allow=[])
    for target in TARGETS + SPOILT:
        url = target.format(port=canary.port)
        if any(name in url for name in ACCEPTED_LATER) and "@" not in url.partition("#")[0]:
            continue  # does not resolve now: it is judged when it does
        assert refused_field(runner, url) == "body", url
    on_loop(runner.close)
    assert canary.visits == 0


def test_a_name_that_changes_its_address_after_the_check_is_not_talked_to(canary: Canary) -> None:
    runner = http_runner(allow=[], resolve=lambda host: ["93.184.216.34"])
    batch = batch_of("http", f"http://localhost:{canary.port}/", [b"x"])
    runner.check(batch.handler)
    result = run_once(runner, batch).results[0]
    assert result.status == status.NO_RESULT
    assert "address refused" in result.error
    assert canary.visits == 0


def test_the_networks_that_are_allowed_are_reached() -> None:
    target = Target({"it": lambda _, seen: answer(b"")})
    with target.serving():
        runner = http_runner(allow=[ip_network("127.0.0.1/32")])
        batch = batch_of("http", target.url("it"), [b"x"])
        runner.check(batch.handler)
        assert run_once(runner, batch).results[0].status == 200
