"""How a host is reached: by which of its addresses, and what that costs others."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import closing, suppress
from ipaddress import ip_network

import pytest
import uvloop

from slimq.core.limits import CONNECT_HEAD_START_S, CONNECT_TIMEOUT_MS
from slimq.runner.address import AddressPolicy
from slimq.runner.http_connect import Connector, NoConnection

LOOPBACK = AddressPolicy([ip_network("127.0.0.0/8"), ip_network("::1/128")])


def peer_of(connector: Connector, host: str, port: int) -> str:
    """Return the address that is connected to."""

    async def connect() -> str:
        try:
            with await connector.open(host, port) as opened:
                return str(opened.getpeername()[0])
        finally:
            await connector.close()

    return uvloop.run(connect())


def named(*addresses: str) -> Connector:
    return Connector(LOOPBACK, resolve=lambda host: list(addresses))


def test_an_address_that_refuses_costs_nothing() -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        port = listener.getsockname()[1]
        assert peer_of(named("127.0.0.1", "::1", "127.0.0.2"), "some.host", port) == "127.0.0.2"


def test_an_address_that_says_nothing_costs_its_head_start() -> None:
    """A listener whose queue is full drops the first packet of all others."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)), closing(socket.socket()) as filler:
            filler.connect(("127.0.0.1", port))

            async def connect() -> tuple[str, float]:
                connector = named("127.0.0.1", "127.0.0.2")
                loop = asyncio.get_running_loop()
                start = loop.time()
                with await connector.open("some.host", port) as opened:
                    took = loop.time() - start
                    await connector.close()
                    return str(opened.getpeername()[0]), took

            peer, took = uvloop.run(connect())
    assert peer == "127.0.0.2"
    assert CONNECT_HEAD_START_S * 0.8 < took < CONNECT_TIMEOUT_MS / 1000 / 2


def test_of_the_addresses_of_a_host_only_permitted_ones_are_talked_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as denied:
        port = denied.getsockname()[1]
        policy = AddressPolicy([ip_network("127.0.0.2/32")])
        connector = Connector(policy, resolve=lambda host: ["127.0.0.1", "127.0.0.2"])
        with pytest.raises(NoConnection, match="cannot connect: Connection refused"):
            peer_of(connector, "some.host", port)
        denied.setblocking(False)
        with pytest.raises(BlockingIOError):
            denied.accept()


def test_a_host_is_judged_at_every_connection_although_its_addresses_are_remembered() -> None:
    asked: list[str] = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    class Moody(AddressPolicy):
        mood = True

        def permits(self, address: str) -> bool:
            return self.mood

    async def twice() -> None:
        policy = Moody()
        connector = Connector(policy, resolve=resolve)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            (await connector.open("some.host", port)).close()
            policy.mood = False
            with pytest.raises(NoConnection, match="address refused: 127"):
                await connector.open("some.host", port)
        await connector.close()

    uvloop.run(twice())
    assert asked == ["some.host"]


def test_many_who_want_a_slow_name_ask_for_it_once_and_one_who_goes_harms_no_other() -> None:
    asked: list[str] = []
    found = threading.Event()

    def resolve(host: str) -> list[str]:
        asked.append(host)
        found.wait(10)
        return ["127.0.0.1"]

    async def many() -> None:
        connector = Connector(LOOPBACK, resolve=resolve)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            tries = [asyncio.create_task(connector.open("slow.host", port)) for _ in range(20)]
            await asyncio.sleep(0)
            tries[0].cancel()
            with suppress(asyncio.CancelledError):
                await tries[0]
            quick = await connector.open("127.0.0.1", port)  # waits for nobody
            quick.close()
            found.set()
            for opened in await asyncio.gather(*tries[1:]):
                opened.close()
        await connector.close()

    uvloop.run(many())
    assert asked == ["slow.host"]


def test_a_name_that_was_not_found_is_looked_up_again() -> None:
    answers = iter([[], ["127.0.0.1"]])

    async def twice() -> None:
        connector = Connector(LOOPBACK, resolve=lambda host: next(answers))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(NoConnection, match=r"cannot resolve some\.host"):
                await connector.open("some.host", port)
            (await connector.open("some.host", port)).close()
        await connector.close()

    uvloop.run(twice())
