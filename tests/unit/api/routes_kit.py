"""What the tests of the routes share: the app over a memory store, called in process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from openapi_check import check_reply

from slimq.api.accept import Acceptor
from slimq.api.app import make_app
from slimq.api.jobs import Waits
from slimq.api.keys_pending import PendingKeys
from slimq.core.handler import Handler, bad_field
from slimq.core.job import Job, Ran, Result
from slimq.core.jobid import Minter
from slimq.core.lifecycle import DONE, Move, done_dt
from slimq.core.limits import CLAIM_MAX, LEASE_MS, MIB
from slimq.core.lines import ChildLine
from slimq.errors import NoContext, SlimqError
from slimq.journal.record import Header, Position
from slimq.journal.writer import Append
from slimq.store.base import ControlStore, Cursor, Finished, KeyUse, NewJobs, Node
from slimq.store.memory import MemoryStore

T = TypeVar("T")
SYSID = "n0dEsYs1"
START_MS = 1_795_000_000_000
HOST = (b"host", b"localhost")


class FakeClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = START_MS

    def wall_ms(self) -> int:
        return self.ms

    def boot_ms(self) -> int:
        return self.ms - START_MS


class FakeBody:
    """A body in memory: what the acceptor needs of one."""

    spool = None

    def __init__(self, error: SlimqError | None = None) -> None:
        self.data = b""
        self._error = error

    def feed(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self.data += data

    def finish(self) -> None:
        """All was fed."""

    @property
    def count(self) -> int:
        return self.data.count(b"\n") + (not self.data.endswith(b"\n") and self.data != b"")

    def digest(self) -> str:
        return str(hash(self.data))

    def discard(self) -> None:
        self.data = b""


class FakeNode:
    """A node whose store is in memory. `down` is what asking it raises."""

    def __init__(self, clock: FakeClock) -> None:
        self.sysid = SYSID
        self.clock = clock
        self.store = MemoryStore(clock)
        self.stopped = False
        self.quitting = False
        self.down: SlimqError | None = None
        self.headers: dict[str, Header] = {}
        self.woken = 0
        self.asked = 0
        self.refused_commands: set[str] = set()
        self.refused_source = ""
        self.has_contexts = True
        self.tried: list[Handler] = []
        self.invoked: list[tuple[str, Handler]] = []
        self.said: dict[str, tuple[int, int]] = {}
        self.facts: dict[str, Any] = {"store": {"error": None}, "journal": {"error": None}}
        self.before_ask: Callable[[], None] = lambda: None
        self.watched: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    def quit(self) -> None:
        self.quitting = True

    def wake(self) -> None:
        self.woken += 1

    def status(self) -> dict[str, Any]:
        return self.facts

    async def pending(self, id: str) -> Header | None:
        return self.headers.get(id)

    def check_handler(self, handler: Handler) -> None:
        if isinstance(handler.body, list) and handler.body[0] in self.refused_commands:
            raise bad_field("body[0]", "there is no such command")

    async def try_out(self, handler: Handler) -> None:
        self.tried.append(handler)
        if not self.has_contexts:
            raise NoContext("the sandbox could not be made")
        if self.refused_source and self.refused_source in str(handler.body):
            raise bad_field("body", "main.py, line 1: refused")

    async def invoke(self, type: str, handler: Handler, lines: list[bytes]) -> Ran:
        self.check_handler(handler)
        self.invoked.append((type, handler))
        await asyncio.sleep(0)
        children = [[ChildLine("log", line)] for line in lines]
        return Ran([Result(200, line) for line in lines], children, b"said")

    def progress(self, id: str) -> tuple[int, int] | None:
        return self.said.get(id)

    async def ask(self, question: Callable[[ControlStore], T]) -> T:
        self.asked += 1
        await asyncio.sleep(0)
        self.before_ask()
        if self.down is not None:
            raise self.down
        return question(self.store)

    async def stored(self, segment: int, offset: int) -> None:
        await asyncio.sleep(0)

    def watch(self, id: str) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self.watched.append(future)
        return future

    def moved(self) -> None:
        """Say that a job that somebody watches moved."""
        for future in self.watched:
            if not future.done():
                future.set_result(None)

    def key_use(self, type: str, key: str) -> KeyUse | None:
        return self.store.key_use(type, key)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """The type of the problem; fails for an answer that is none."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return str(self.json["type"]).removeprefix("/problems/")


def _reply(sent: Sequence[Any]) -> Reply:
    start, *bodies = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], headers, b"".join(part["body"] for part in bodies))


class Bench:
    """The app, and everything behind it."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.node = FakeNode(self.clock)
        self.store = self.node.store
        self.minter = Minter(SYSID)
        self.refusal: SlimqError | None = None
        self.body_error: SlimqError | None = None  # what a body that arrives is refused with
        self.acceptor = Acceptor(
            minter=self.minter,
            submit=self._submit,
            refusal=lambda: self.refusal,
            new_body=self._new_body,
            body_max=64 * MIB,
            clock=self.clock,
            node=self.node,
            keys=PendingKeys(),
        )
        self.app = make_app(self.node, self.acceptor)
        self.last: Reply  # also of a call that raised, as the server would see it

    def remake(self, waits: Waits) -> None:
        self.app = make_app(self.node, self.acceptor, waits)

    def close(self) -> None:
        self.runner.close()
        self.store.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # Calls.

    def get(self, target: str, **headers: str) -> Reply:
        return self.run(self.call("GET", target, headers=headers))

    def post(self, target: str, body: bytes = b"", **headers: str) -> Reply:
        return self.run(self.call("POST", target, body, headers))

    def put(self, target: str, document: Any) -> Reply:
        return self.run(self.call("PUT", target, json.dumps(document).encode()))

    def patch(self, target: str, document: Any) -> Reply:
        return self.run(self.call("PATCH", target, json.dumps(document).encode()))

    def delete(self, target: str) -> Reply:
        return self.run(self.call("DELETE", target))

    async def call(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Reply:
        """Call the app; `gone` is set when the caller leaves."""
        path, _, raw_query = target.partition("?")
        fields = [HOST]
        for name, value in (headers or {}).items():
            fields.append((name.replace("_", "-").lower().encode(), value.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": raw_query.encode(),
            "root_path": "",
            "headers": fields,
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1),
        }
        left = asyncio.Event() if gone is None else gone
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        finally:
            self.last = _reply(sent)
            media = self.last.headers["content-type"]
            check_reply(method, scope["path"], self.last.status, media, self.last.body)
        return self.last

    # Jobs in the store.

    def add(self, type: str, *data: bytes, delay_ms: int = 0, parent: str = "") -> list[str]:
        """Put jobs into the store as ingest would; return their ids."""
        now = self.clock.ms
        ids = self.minter.block(len(data), now).ids()
        jobs = NewJobs(type=type, dt=now + delay_ms, ids=ids, data=list(data), parent=parent)
        cursor = self.store.cursor("journal")
        moved = Cursor(cursor.segment, cursor.offset + 1)
        self.store.ingest("journal", cursor, moved, [jobs])
        return ids

    def add_one(self, type: str, data: bytes = b"x", **options: Any) -> str:
        return self.add(type, data, **options)[0]

    def claim(self, type: str, limit: int = 1) -> list[Job]:
        return self.store.claim(type, SYSID, limit, lease_ms=LEASE_MS, bytes_max=MIB).jobs

    def finish(
        self, type: str, jobs: Sequence[Job], result: Result | None = None, output: bytes = b""
    ) -> None:
        """End the run of claimed jobs: they are done with `result`."""
        result = result or Result(200, b"fine")
        now = self.clock.ms
        moves = [
            Move(
                [job.id],
                job.attempt,
                done_dt(now),
                DONE,
                result.status,
                0,
                0,
                result.text,
                result.error,
            )
            for job in jobs
        ]
        self.store.finish(SYSID, [Finished(type, moves, output)])

    def done(self, type: str, status: int = 200, data: bytes = b"x") -> str:
        """Return the id of a job that is done with `status`."""
        id_ = self.add_one(type, data)
        self.finish(type, self.claim(type), Result(status, b"fine"))
        return id_

    def finish_all(self, type: str, status: int) -> None:
        """Run whatever is ready; all of it ends with `status`."""
        self.finish(type, self.claim(type, CLAIM_MAX), Result(status))

    def handler(self, jobtype: str, client: str = "*", **members: Any) -> Reply:
        document = {"lang": "exec", "body": ["cat"], **members}
        return self.put(f"/handlers/{jobtype}?client={client}", document)

    def register(self, sysid: str = SYSID, **about: Any) -> None:
        now = self.clock.ms
        node = Node(sysid=sysid, started_at=now, seen_at=now, about=about or {"pid": 1})
        self.store.register(node)

    def accepted(self, id_: str, type: str) -> None:
        """Make a job one that the journal has, and the store not yet."""
        header = Header(kind="lines", id=id_, count=1, at=self.clock.ms, type=type)
        self.node.headers[id_] = header

    def _new_body(self) -> Any:
        return FakeBody(self.body_error)

    def _submit(self, append: Append) -> None:
        append.end = Position(1, 1)
        asyncio.get_running_loop().call_soon(append.done, append)
