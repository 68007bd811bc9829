"""A real node as a process of its own, with the defaults, on a free port.

What differs from a node as it comes: the data folder, the port, and `http.allow`, because
the receiver of the benchmark is on loopback.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from load import HOST, Wire, add

POLL_S = 0.02
START_TIMEOUT_S = 20.0
WAIT_TIMEOUT_S = 120.0


class Finish(NamedTuple):
    """So many runs were in the store at this time (seconds since the epoch)."""

    at: float
    total: int


class NodeLog:
    """The log of a node, followed while it is written. Reading it costs the node nothing,
    so what finished is told without asking."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._read: deque[bytes] = deque()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what was written and not yielded before."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._at += len(text)
        self._read.extend(text.splitlines())
        while self._read:
            yield json.loads(self._read.popleft())

    def skip(self) -> None:
        """Pass over what was written so far."""
        for _ in self.events():
            pass

    def tail(self) -> str:
        return self._path.read_text()[-2000:]


class Node:
    """A node that runs."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.log = NodeLog(folder / "log")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slimq", "serve"],
                cwd=folder,
                env=_environment(folder) | dict(settings or {}),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.port = int(self._await_event("node.started", START_TIMEOUT_S)["port"])

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """Call the API; return the document. Raises RuntimeError for a refusal."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            body = None if document is None else json.dumps(document).encode()
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]!r}")
        return json.loads(said)

    def put(self, jobtype: str, lang: str, body: Any, **options: Any) -> None:
        """Define a handler for every client."""
        document = {"lang": lang, "body": body, "options": options}
        self.call("PUT", f"/handlers/{jobtype}", document)

    def add(self, jobtype: str, body: bytes) -> float:
        """Add lines; return the seconds until they were accepted."""
        wire = Wire(self.port)
        try:
            return wire.timed(add(jobtype, body))
        finally:
            wire.close()

    def type(self, jobtype: str) -> dict[str, int]:
        """Return the counts of a jobtype of all clients."""
        counts: dict[str, int] = self.call("GET", f"/types/{jobtype}?client=*")
        return counts

    def finished(self) -> int:
        """Return how many runs ended so far. Raises RuntimeError when not all ended OK."""
        ended: dict[str, int] = self.call("GET", "/status")["node"]["counters"]["finished"]
        if sum(ended.values()) != ended["ok"]:
            raise RuntimeError(f"not all runs ended OK: {ended}")
        return ended["ok"]

    def await_type(self, jobtype: str, name: str, count: int) -> None:
        """Wait until a count of a type is so many."""
        wait_until(lambda: self.type(jobtype)[name] == count, f"{count} {name} of {jobtype}")

    def await_stored(self) -> None:
        """Wait until all that was accepted is in the store."""
        wait_until(
            lambda: self.call("GET", "/status")["node"]["journal"]["pending_bytes"] == 0,
            "the journal to be ingested",
        )

    def start(self) -> float:
        """Resume the engine; return when it was."""
        self.log.skip()
        self.call("POST", "/start")
        return _seconds(self._await_event("engine.started", 10)["at"])

    def stop(self) -> None:
        """Suspend the engine, and wait until nothing runs."""
        self.call("POST", "/stop")
        wait_until(
            lambda: self.call("GET", "/status")["node"]["engine"]["running_batches"] == 0,
            "the running batches to end",
        )
        self.log.skip()

    def finishes(self, count: int) -> list[Finish]:
        """Wait until `count` more runs are finished; return how that went. A later call
        goes on behind the last event that this one saw."""
        found: list[Finish] = []
        total = 0

        def enough() -> bool:
            nonlocal total
            for event in self.log.events():
                if event["event"] == "jobs.completed":
                    total += event["count"]
                    found.append(Finish(_seconds(event["at"]), total))
                    if total >= count:
                        break
            return total >= count

        wait_until(enough, f"{count} jobs to finish, with this log:\n{self.log.tail()}")
        return found

    def cpu_seconds(self) -> float:
        """Return the user and system time that the node took so far."""
        return cpu_seconds(self.process.pid)

    def quit(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _await_event(self, name: str, timeout_s: float) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def seen() -> bool:
            found.update(next((e for e in self.log.events() if e["event"] == name), {}))
            if not found and self.process.poll() is not None:
                raise RuntimeError(f"the node ended:\n{self.log.tail()}")
            return bool(found)

        wait_until(seen, f"{name} in the log", timeout_s, poll_s=0.002)
        return found


def time_of(finishes: list[Finish], count: int) -> float:
    """Return when the first `count` runs were finished, between two events if need be."""
    before = Finish(finishes[0].at, 0)
    for finish in finishes:
        if finish.total >= count:
            part = (count - before.total) / (finish.total - before.total)
            return before.at + part * (finish.at - before.at)
        before = finish
    raise ValueError(f"only {before.total} of {count} runs were finished")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Node]:
    """Run a node on a folder, which is made if need be. `settings` are of its environment."""
    folder.mkdir(exist_ok=True)
    node = Node(folder, settings)
    try:
        yield node
    finally:
        node.quit()


def wait_until(
    true: Callable[[], bool], what: str, timeout_s: float = WAIT_TIMEOUT_S, poll_s: float = POLL_S
) -> None:
    """Ask now and then. Raises RuntimeError when it takes too long."""
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {timeout_s:g} s for {what}")
        time.sleep(poll_s)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLIMQ_")}
    return kept | {
        "SLIMQ_DATA__PATH": str(folder / "data"),
        "SLIMQ_SERVER__PORT": "0",
        "SLIMQ_HTTP__ALLOW": "127.0.0.0/8",
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
