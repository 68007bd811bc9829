"""Which URLs our own caller takes, and which connections it keeps."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest
import uvloop

from slimq.core.limits import IDLE_CONNECTIONS_MAX
from slimq.runner.address import AddressPolicy
from slimq.runner.caller import Request
from slimq.runner.http_connect import Connector
from slimq.runner.http_plain import PlainCaller, read_place

LOOPBACK = AddressPolicy([ip_network("127.0.0.0/8")])


@pytest.mark.parametrize(
    ("url", "host", "port", "named", "target"),
    [
        ("http://example.org", "example.org", 80, "example.org", "/"),
        ("http://Example.org:80/", "example.org", 80, "Example.org", "/"),
        ("http://a_b.example:8080/x/y?z=1#f", "a_b.example", 8080, "a_b.example:8080", "/x/y?z=1"),
        ("http://[2001:DB8::1]:81/", "2001:db8::1", 81, "[2001:DB8::1]:81", "/"),
        ("http://example.org?q", "example.org", 80, "example.org", "/?q"),
    ],
)
def test_a_plain_url_has_one_reading(
    url: str, host: str, port: int, named: str, target: str
) -> None:
    place = read_place(url)
    assert place is not None
    assert (place.host, place.port) == (host, port)
    assert place.start.startswith(f"POST {target} HTTP/1.1\r\nHost: {named}\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "HTTP://example.org/",
        "http://user@example.org/",
        "http://user:word@example.org/",
        "http://example.org\\@other.example/",
        "http:///example.org/",
        "http:example.org/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:http/",
        "http://[fe80::1%25lo]/",
        "http://ex%61mple.org/",
        "http://ex\u00e4mple.org/",
        "http://example.org/a b",
        "http://example.org/\r\nX: y",
        "http://example.org/?\n",
        "http://example.org/\n",
        "http://example.org/a/../b",
        "http://example.org/.",
        "http://example.org/%2e%2E?x",
        "http://example.org/a|b",
        "http://example.org/\u00e4",
        "",
    ],
)
def test_all_others_are_left_to_libcurl(url: str) -> None:
    assert read_place(url) is None


def test_the_connections_that_are_kept_are_bounded_and_the_longest_idle_goes_first() -> None:
    hosts = [f"127.0.{high}.{low}" for high in (1, 2) for low in range(1, 151)]
    now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        while await reader.read(65_536):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        now -= 1

    async def call_all() -> None:
        server = await asyncio.start_server(serve, "0.0.0.0", 0)
        port = server.sockets[0].getsockname()[1]
        caller = PlainCaller(Connector(LOOPBACK))
        for host in [*hosts, hosts[-1]]:
            request = Request(f"http://{host}:{port}/", [], b"", 5_000, 100)
            assert (await caller.call(request)).code == 200
        await caller.close()
        server.close()
        await server.wait_closed()

    uvloop.run(call_all())
    assert IDLE_CONNECTIONS_MAX <= most <= IDLE_CONNECTIONS_MAX + 2
