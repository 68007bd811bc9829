"""A node as the command line sees it: a real HTTP server with answers of the test's own."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

from slimq.cli.main import run


class Received(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, Any]
Answering = Callable[[Received], Answer]


class FakeNode:
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: dict[tuple[str, str], Answer | Answering] = {}
        self.otherwise: Answer = (404, {"title": "None"})
        self.keeps_bodies = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def last(self) -> Received:
        return self.received[-1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, document: Any, status: int = 200) -> None:
        self.answers[method, path] = (status, document)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        node = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                received = Received(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query)),
                    {name.lower(): value for name, value in self.headers.items()},
                    body if node.keeps_bodies else b"",
                )
                node.received.append(received)
                answer = node.answers.get((self.command, parts.path), node.otherwise)
                status, document = answer(received) if callable(answer) else answer
                text = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.respond)
        return Handler


class Intake:
    """`POST /add` of a fake node: counts and hashes what it gets, line by line."""

    def __init__(self) -> None:
        self.bodies: list[int] = []
        self.count = 0
        self.hash = hashlib.sha256()

    def __call__(self, received: Received) -> Answer:
        body = received.body
        lines = body.count(b"\n") + (not body.endswith(b"\n"))
        self.bodies.append(len(body))
        self.hash.update(body)
        first, self.count = self.count, self.count + lines
        answer: dict[str, Any] = {"ok": True, "count": lines}
        if lines <= 1000:
            return 202, {**answer, "ids": [f"id-{first + n}" for n in range(lines)]}
        return 202, {**answer, "first": f"id-{first}", "last": f"id-{self.count - 1}"}


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node. What it was asked is held against the API's own description."""
    fake = FakeNode()
    yield fake
    fake.close()
    for received in fake.received:
        check_described(received)


DESCRIPTION = json.loads(resources.files("slimq.api").joinpath("openapi.json").read_bytes())


def check_described(received: Received) -> None:
    """Assert that the API has the route and the parameters of a request."""
    described = []
    for path, methods in DESCRIPTION["paths"].items():
        pattern = re.sub(r"\\{.*?\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, received.path) and received.method.lower() in methods:
            described.append(methods[received.method.lower()])
    assert described, f"there is no route {received.method} {received.path}"
    names = {
        DESCRIPTION["components"]["parameters"][each["$ref"].rpartition("/")[2]]["name"]
        for each in described[0].get("parameters", [])
    }
    assert received.query.keys() <= names, f"{received.path} has the parameters {names}"


@pytest.fixture
def intake(node: FakeNode) -> Intake:
    intake = Intake()
    node.answers["POST", "/add"] = intake
    return intake


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Slimq = Callable[..., Said]


@pytest.fixture
def slimq(
    node: FakeNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Slimq:
    """Run a command against the fake node."""
    monkeypatch.setenv("SLIMQ_URL", node.url)

    def call(*words: str) -> Said:
        code = run(words)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
