"""Random bytes on the port never make a 5xx, a hang, or a job that was not asked for."""

from __future__ import annotations

import random
import re

import pytest

from slimq.api.surface import Deadlines

SHORT = Deadlines(header_s=0.2, body_idle_s=0.2, keep_alive_s=0.2, linger_s=0.1)
VALID = (
    b"POST /add?jobtype=mail HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na\n",
    b"POST /add?jobtype=mail HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n0\r\n\r\n",
    b"GET /echo?x=1 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 26\r\n\r\n"
    b'{"jobtype":"a","data":"x"}',
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"5", b"0", b"\r\n\r\n", b"chunked",
    b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n", b"%00", b"?",
    b"\xff", b"HTTP/1.0", b"/add", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
)  # fmt: skip
AT_A_TIME = 60
AT_A_TIME = 60
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
COUNT = re.compile(rb'\{"ok":true,"count":(\d+)')


def mutated(chance: random.Random) -> bytes:
    """Return a valid request, or two, with a few bytes changed."""
    raw = bytearray(b"".join(chance.choices(VALID, k=chance.randint(1, 2))))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(raw) + 1)
        size = chance.choice((0, 0, 1, 3))
        raw[at : at + size] = chance.choice((chance.choice(PIECES), chance.randbytes(2)))
    return bytes(raw)


def read_to_end(wire) -> bytes:
    """Return all that the server says until it closes, which it must."""
    said = b""
    while True:
        try:
            data = wire.socket.recv(65536)
        except ConnectionResetError:
            return said
        if not data:
            return said
        said += data


@pytest.mark.proof("T5")
def test_random_bytes_are_answered_or_closed_and_every_2xx_is_in_the_journal(serve, proof):
    served = serve(deadlines=SHORT)
    chance = random.Random(proof.seed)
    rounds = proof.size(submission=8, release=500)
    accepted = sum(accepted_of_many(served, chance) for _ in range(rounds))
    assert sum(header.count for header, _ in served.journal.records()) == accepted
    proof.report(random_requests=rounds * AT_A_TIME, errors=0)


def accepted_of_many(served, chance: random.Random) -> int:
    """Send noise and nearly valid requests, each on a connection of its own; return how many
    jobs were acknowledged. None gets a 5xx, and all are closed."""
    wires = [served.wire() for _ in range(AT_A_TIME)]
    opened = [wire.__enter__() for wire in wires]
    for wire in opened:
        noise = chance.random() < 0.2
        wire.send(chance.randbytes(chance.randint(1, 300)) if noise else mutated(chance))
    accepted = 0
    for wire in opened:
        said = read_to_end(wire)
        statuses = [int(code) for code in STATUS.findall(said)]
        assert all(status < 500 for status in statuses), statuses
        counts = [int(count) for count in COUNT.findall(said)]
        assert len(counts) == statuses.count(202)
        accepted += sum(counts)
    for wire in wires:
        wire.__exit__(None, None, None)
    return accepted
