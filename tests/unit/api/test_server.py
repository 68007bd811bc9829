from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from slimq.api.server import Server, bind, listen_beside, reserve
from slimq.errors import ConfigError, PortInUse

HEAD = b"POST /add?jobtype=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_without_keys_only_loopback_addresses_are_bound(served, host):
    async def start() -> None:
        with pytest.raises(ConfigError):
            await Server(served.app, served.acceptor).start(host, 0)

    served.run(start())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1", "[::1]"])
def test_loopback_addresses_are_bound(served, host):
    async def start_and_stop() -> int:
        server = Server(served.app, served.acceptor)
        port = await server.start(host, 0)
        await server.stop(1)
        return port

    assert served.run(start_and_stop()) > 0


def test_a_port_that_is_taken_is_named(served):
    async def start() -> None:
        with pytest.raises(PortInUse) as caught:
            await Server(served.app, served.acceptor).start("127.0.0.1", served.port)
        assert str(served.port) in caught.value.detail

    served.run(start())


def test_a_port_that_cannot_be_is_named(served):
    async def start() -> None:
        with pytest.raises(ConfigError) as caught:
            await Server(served.app, served.acceptor).start("127.0.0.1", 70_000)
        assert "70000" in caught.value.detail

    served.run(start())


def test_callers_beyond_the_most_are_refused_and_those_that_are_there_are_served(served):
    async def start() -> tuple[Server, int]:
        server = Server(served.app, served.acceptor, connections_max=1)
        return server, await server.start("127.0.0.1", 0)

    server, port = served.run(start())
    with served.wire(port) as there:
        assert there.request("/add?jobtype=a", b"x").status == 202
        with served.wire(port) as refused:
            assert refused.reply().status == 503
            assert refused.closed()
        assert there.request("/add?jobtype=a", b"x").status == 202
    served.run(server.stop(1))


def test_stopping_ends_idle_connections_at_once_and_refuses_new_ones(served):
    with served.wire() as fresh, served.wire() as used:
        assert used.request("/add?jobtype=a", b"x").status == 202
        served.run(served.server.stop(5))
        assert fresh.closed()
        assert used.closed()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=5)


def test_stopping_lets_requests_that_have_begun_finish(served):
    served.journal.hold()
    with served.wire() as waiting, served.wire() as arriving, served.wire() as in_app:
        waiting.send(HEAD + b"a\n")
        arriving.send(HEAD + b"b")
        in_app.send(b"GET /gated HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert waiting.silent(0.05)
        stopping = served.begin(served.server.stop(10))
        arriving.send(b"\n")
        assert arriving.silent(0.05)
        served.journal.release()
        served.call(served.app_gate.set)
        for wire, status in ((waiting, 202), (arriving, 202), (in_app, 200)):
            reply = wire.reply()
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            assert wire.closed()
        stopping.result(5)
    assert len(served.journal.records()) == 2


def test_what_is_not_finished_within_the_grace_is_cut_off(served):
    with served.wire() as half, served.wire() as in_app:
        half.send(HEAD + b"b")
        in_app.send(b"GET /gated HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert in_app.silent(0.05)
        served.run(served.server.stop(0.1))
        assert half.closed()
        assert in_app.closed()
    assert not served.journal.records()


def test_stopping_twice_is_harmless(served):
    served.run(served.server.stop(1))
    served.run(served.server.stop(1))


def test_several_may_listen_beside_each_other_where_one_reserved_the_address():
    with reserve("127.0.0.1", 0) as reserved:
        address = reserved.getsockname()
        with listen_beside(reserved) as one, listen_beside(reserved) as two:
            assert one.getsockname() == two.getsockname() == address
            with pytest.raises(PortInUse):
                bind(*address)
            with pytest.raises(PortInUse):
                reserve(*address)
            callers = [socket.create_connection(address, timeout=5) for _ in range(40)]
            assert 0 < sum(1 for _ in accepted(one)) < 40
            for caller in callers:
                caller.close()


def accepted(listener: socket.socket) -> Iterator[None]:
    """Accept all who wait."""
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return
        yield


def test_when_a_server_stops_nobody_waits_on_its_socket_also_when_another_process_has_it(served):
    listener = bind("127.0.0.1", 0)
    with listener.dup():
        server = Server(served.app, served.acceptor)
        port = served.run(server.serve_on(listener))
        with served.wire(port) as caller:
            assert caller.request("/add?jobtype=a", b"x").status == 202
        served.run(server.stop(1))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
