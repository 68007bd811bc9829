"""Every content arrives as it was sent: all bytes, every line separator, empty and long lines,
however the request is framed, at a command and at a URL."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from api_kit import Wire
from node_kit import Node, wait_until
from runner_kit import COMMAND, HTTP_BEHAVIOURS, Seen, Target, answer
from sqlite_kit import raw

from proof_kit import Proof
from slimq.core.limits import LINE_MAX

EVERY_BYTE = bytes(byte for byte in range(256) if byte != 0x0A)
SEPARATORS = [b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85"]
SEPARATORS += [mark.encode() for mark in ("\x85", "\u2028", "\u2029")]
PIECES = [*SEPARATORS, b"#", b"#J: a|b", b"|", b" ", b"\t", b"200 ", b"\0", b"\xff\xfe", b"x"]
PIECES += ["\U0001f600\ufeff\u202e".encode(), b'"', b"\\n", b"%0A", b"\x1b[2J"]
ALWAYS = [EVERY_BYTE, b"", b"y" * LINE_MAX, b"\0" * LINE_MAX, *PIECES]
LINES_MAX = 200


def contents(chance: Random, count: int) -> Iterator[bytes]:
    yield from ALWAYS
    for _ in range(count - len(ALWAYS)):
        kind = chance.random()
        if kind < 0.1:
            yield chance.choice((b"", EVERY_BYTE))
        elif kind < 0.6:
            yield b"".join(chance.choices(PIECES, k=chance.randint(1, 12)))
        else:
            size = chance.choice((1, 10, 100, 1_000, 5_000))
            yield chance.randbytes(chance.randint(1, size)).replace(b"\n", b"")


def framed(chance: Random, target: str, body: bytes) -> bytes:
    """Return a request in one of the ways to say how long its body is."""
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if chance.random() < 0.5:
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    size = 1 if len(body) < 20_000 else chance.randint(1, len(body))
    chunks = (body[at : at + size] for at in range(0, len(body), size))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


def digest(content: bytes) -> bytes:
    return b"%d %b" % (len(content), hashlib.sha256(content).hexdigest().encode())


def one(_: socket.socket, seen: Seen) -> bytes:
    return answer(digest(seen.body))


@pytest.mark.proof("T13")
def test_every_content_arrives_as_it_was_sent(tmp_path: Path, proof: Proof) -> None:
    chance = Random(proof.seed)
    left = list(contents(chance, proof.size(submission=5_000, release=100_000)))
    count = len(left)
    command = [sys.executable, "-I", "-S", str(COMMAND), "digest"]
    sent: dict[str, bytes] = {}
    target = Target({**HTTP_BEHAVIOURS, "one": one})
    with target.serving(), Node(tmp_path) as node:
        node.put("exec", lang="exec", body=command, options={"batch_size": 1000})
        node.put("many", lang="http", body=target.url("digest"), options={"batch_size": 500})
        node.put("one", lang="http", body=target.url("one"))
        port = int(node.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            wire = Wire(connection)
            while left:
                size = chance.randint(1, LINES_MAX)
                lines, left = left[:size], left[size:]
                jobtype = chance.choices(("exec", "many", "one"), (5, 4, 1))[0]
                body = b"".join(line + b"\n" for line in lines)
                wire.send(framed(chance, f"/add?jobtype={jobtype}&ids=all", body))
                reply = wire.reply()
                assert reply.status == 202, reply
                sent |= dict(zip(reply.document["ids"], lines, strict=True))
        wait_until(lambda: node.has_run("exec", "many", "one"), "all have run", timeout_s=900)
        with raw(node.store) as db:
            found = {
                id_: (status, text)
                for id_, status, text in db.execute("SELECT id, status, result FROM job")
            }
        assert node.quit() == 0
    assert found.keys() == sent.keys()
    changed = [
        sent[id_]
        for id_, (status, text) in found.items()
        if (status, text) != (200, digest(sent[id_]))
    ]
    assert changed == []
    assert len(sent) == count
    proof.report(cases=count, changed=0)
