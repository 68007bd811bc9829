"""What the tests of the accept path share: a caller on a raw socket, a journal, a node."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimq.errors import SlimqError
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.commit import GroupCommit
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, Position
from slimq.journal.writer import JournalWriter
from slimq.store.base import KeyUse
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from slimq.system.disk import Buffer, SystemDisk


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        return str(self.document.get("type", "")).removeprefix("/problems/")


class Wire:
    """One connection of a caller that sees every byte."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, target: str, body: bytes = b"", *fields: str, method: str = "POST") -> Reply:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return self.reply(method=method)

    def reply(self, method: str = "POST") -> Reply:
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} is repeated"
            headers[name.lower()] = value.strip()
        status = int(first.split(" ")[1])
        if method == "HEAD" or status < 200:
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size + 2)[:-2]
            self._exactly(2)
            return Reply(status, headers, body)
        return Reply(status, headers, self._exactly(int(headers["content-length"])))

    def closed(self) -> bool:
        """Wait until the server ends the connection; return whether it sent nothing more."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def silent(self, seconds: float = 0.1) -> bool:
        """Return whether nothing arrives for some time."""
        self.socket.settimeout(seconds)
        try:
            self._buffer += self.socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(10)
        return False

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive()
        at = self._buffer.index(end) + len(end)
        found, self._buffer = self._buffer[:at], self._buffer[at:]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _receive(self) -> None:
        data = self.socket.recv(1 << 20)
        assert data, f"the server closed the connection after {self._buffer!r}"
        self._buffer += data


class FakeStore:
    def __init__(self) -> None:
        self.uses: dict[tuple[str, str], KeyUse] = {}

    def key_use(self, type: str, key: str) -> KeyUse | None:
        return self.uses.get((type, key))


class FakeNode:
    """The part of a node that accepting needs. `down` is what asking the store raises."""

    def __init__(self, sysid: str) -> None:
        self.sysid = sysid
        self.store = FakeStore()
        self.down: SlimqError | None = None
        self.unmet: SlimqError | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0
        self.stored_up_to: list[Position] = []

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        return question(self.store)

    async def stored(self, segment: int, offset: int) -> None:
        await asyncio.sleep(0)
        if self.unmet is not None:
            raise self.unmet
        self.stored_up_to.append(Position(segment, offset))


class FailingDisk(SystemDisk):
    """A disk that can break."""

    broken = False

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pwritev(file, buffers, offset)


class JournalBench:
    """A journal in a folder, with its committing thread. `refused` is what it refuses new
    jobs with; records that are submitted while it is held reach it when it is released."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, body_max: int) -> None:
        self.refused: SlimqError | None = None
        self._loop = loop
        self._disk = FailingDisk()
        clock = SystemClock()
        self._writer = JournalWriter(
            folder, disk=self._disk, clock=clock, chance=SystemChance(), reserve_bytes=0
        )
        self._writer.open()
        self._reader = JournalReader(self._writer)
        self._budget = BodyBudget(folder, disk=self._disk, body_max=body_max)
        self._commit = GroupCommit(self._writer, self._deliver, clock=clock, probe_interval_s=0.05)
        self._thread = threading.Thread(target=self._commit.run, name="commit")
        self._thread.start()
        self._held: list[Append] | None = None
        self.levels: list[str] = []  # of the appends, as they were submitted

    def refusal(self) -> SlimqError | None:
        return self.refused

    def new_body(self) -> Body:
        return Body(self._budget)

    def submit(self, append: Append) -> None:
        self.levels.append(append.durability)
        if self._held is not None:
            self._held.append(append)
        else:
            self._commit.submit(append)

    def hold(self) -> None:
        self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        for append in held or []:
            self._commit.submit(append)

    def fail(self) -> None:
        self._disk.broken = True

    def heal(self) -> None:
        """Mend the disk, and wait until the journal noticed."""
        self._disk.broken = False
        end = time.monotonic() + 10
        while self._writer.refusal() is not None:
            assert time.monotonic() < end, "the journal does not recover"
            time.sleep(0.01)

    def records(self) -> list[tuple[Header, list[bytes]]]:
        """Return what is in the journal: headers, and the lines of their bodies."""
        entries, _ = self._reader.read(Position(), 1 << 40)
        return [(entry.header, entry.body.lines(0, 1 << 30, 1 << 30)[0]) for entry in entries]

    @property
    def memory_used(self) -> int:
        """Bytes of all bodies that are in memory."""
        return self._budget.in_memory

    def stop_committing(self) -> None:
        """Take no more records, as a node that stops."""
        self._commit.close()
        self._thread.join(10)

    def close(self) -> None:
        self.stop_committing()
        self._writer.close()

    def _deliver(self, group: list[Append]) -> None:
        self._loop.call_soon_threadsafe(_report, group)


def _report(group: list[Append]) -> None:
    for append in group:
        append.done(append)
