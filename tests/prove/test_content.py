"""Whatever a line holds, and however it was sent, it arrives as it is: from the socket of a
caller through journal and store to the command or URL that runs it."""

from __future__ import annotations

import http.client
import http.server
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from node_kit import Node, wait_until

from proof_kit import Proof

LINE_MAX = 1 << 20
EVERY_BYTE = bytes(byte for byte in range(256) if byte != 0x0A)
AWKWARD = [
    EVERY_BYTE,
    b"",
    b"\r",
    b" leading",
    b"trailing ",
    b"# no comment",
    b"#J: other|no child",
    b"a|b",
    b"200 no result",
    b"\0",
    "\u2028 \u2029 \u0085 \v \f \x1c \x1d \x1e".encode(),
    b"\xff\xfe\xc3(",
    b"%0A%00+&=",
]
# A command that keeps its input in a file of its own, and says that all of it went well.
KEEPS = """
import os, sys
lines = sys.stdin.buffer.read()
with open(f"arrived/{os.getpid()}-{os.urandom(4).hex()}", "wb") as file:
    file.write(lines)
sys.stdout.write("200\\n" * lines.count(b"\\n"))
"""


def some_line(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.4:
        return b"".join(chance.choices(AWKWARD, k=chance.randint(1, 3)))
    if kind < 0.999:
        return chance.randbytes(chance.randint(0, 60)).replace(b"\n", b"\r")
    return chance.randbytes(chance.choice((4096, 65_536, LINE_MAX))).replace(b"\n", b"\0")


def some_bodies(chance: random.Random, count: int) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield bodies of `count` lines in all. The last line of some has no newline, and counts
    if it is not empty; some lines end with a carriage return, which belongs to them."""
    while count:
        most = chance.choice((1, 3, 50, 10_000))
        lines = [some_line(chance) for _ in range(min(count, chance.randint(1, most)))]
        if chance.random() < 0.2:
            lines = [line[: LINE_MAX - 1] + b"\r" for line in lines]
        count -= len(lines)
        body = b"".join(line + b"\n" for line in lines)
        yield (body[:-1] if lines[-1] and chance.random() < 0.3 else body), lines


def pieces(chance: random.Random, body: bytes) -> Iterator[bytes]:
    """Cut a body, a small one into single bytes."""
    size = 1 if len(body) < 300 else chance.randint(100, 100_000)
    for start in range(0, len(body), size):
        yield body[start : start + size]


def send(node: Node, chance: random.Random, body: bytes) -> None:
    caller = http.client.HTTPConnection(urlsplit(node.url).netloc, timeout=60)
    try:
        if chance.random() < 0.3:
            headers = {"Transfer-Encoding": "chunked"}
            content = pieces(chance, body)
            caller.request("POST", "/add?jobtype=keep", content, headers, encode_chunked=True)
        else:
            caller.request("POST", "/add?jobtype=keep", body)
        answer = caller.getresponse()
        assert answer.status == 202, answer.read()
    finally:
        caller.close()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the body of each request."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["Content-Length"]))
        (self.folder / self.headers["webhook-id"]).write_bytes(lines)
        said = b"200\n" * lines.count(b"\n")
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiver(folder: Path) -> Iterator[str]:
    kind = type("Keeper", (Receiver,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.proof("T13")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lang", ["exec", "http"])
def test_every_line_arrives_as_it_was_sent_whatever_it_holds(
    tmp_path: Path, proof: Proof, lang: str
) -> None:
    chance = random.Random(proof.seed)
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with receiver(arrived) as url, Node(tmp_path) as node:
        handler: str | list[str] = url if lang == "http" else [sys.executable, "-c", KEEPS]
        node.put("keep", lang=lang, body=handler, options={"batch_size": 500})
        sent: Counter[bytes] = Counter(AWKWARD)
        send(node, chance, b"".join(line + b"\n" for line in AWKWARD))
        for body, lines in some_bodies(chance, proof.size(submission=2_500, release=100_000)):
            send(node, chance, body)
            sent.update(lines)
        wait_until(lambda: node.has_run("keep"), "all jobs have run", timeout_s=240)
        counts = node.call("GET", "/types/keep?client=main")
        assert counts["ok"] == sent.total()
        assert node.quit() == 0
    ran = Counter[bytes]()
    for file in arrived.iterdir():
        ran.update(file.read_bytes().removesuffix(b"\n").split(b"\n"))
    assert ran == sent
    proof.report(cases=sent.total(), changed=0)
