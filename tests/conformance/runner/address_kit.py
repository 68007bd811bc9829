"""Spellings of addresses that must not be talked to, and who would notice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

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
