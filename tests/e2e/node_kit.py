"""A real node for tests: a process of its own folder, spoken to by HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest

ECHO = ["sed", "s/^/200 /"]  # a command that answers each line with itself
POLL_S = 0.02


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    document: Any


class EndedAtStart(AssertionError):
    """A node ended before it served."""


class Node:
    """A node of its own folder, started by the command `slimq serve`.

    `prefix` are words before that command. `log` is what the current process has logged.
    """

    def __init__(self, folder: Path, *, prefix: Sequence[str] = (), **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.store = Path(settings.get("SLIMQ_STORE__PATH", self.data / "store.db"))
        self._prefix = prefix
        self._settings = settings
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    def start(self) -> None:
        """Start the node; return when it serves."""
        self._launch()
        self._await_start()

    def start_and_kill(self, after_s: float) -> None:
        """Start the node and kill it so soon after that, whatever it is doing."""
        self._launch()
        try:
            self.process.wait(after_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
        assert self.process.wait(40) == -signal.SIGKILL
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _launch(self) -> None:
        environment = os.environ | {
            "SLIMQ_DATA__PATH": str(self.data),
            "SLIMQ_SERVER__PORT": "0",
            "SLIMQ_HTTP__ALLOW": "127.0.0.0/8",
            **self._settings,
        }
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "slimq", "serve"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []

    def _await_start(self) -> None:
        self._reader = threading.Thread(target=self._read_log)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if '"event":"node.started"' in line:
                self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
                self._reader.start()
                return
        self.process.stderr.close()
        code = self.process.wait()
        raise EndedAtStart(f"exit code {code} at the start: {''.join(self.log)}")

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = 70,
        **headers: str,
    ) -> Answer:
        """Send a request; return the answer, whatever its status."""
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, dict(answer.headers), json.load(answer))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, dict(refusal.headers), json.load(refusal))

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request that must succeed; return the document."""
        answer = self.ask(method, path, body)
        assert answer.status < 300, answer
        return answer.document

    def put(self, jobtype: str, **handler: Any) -> None:
        self.call("PUT", f"/handlers/{jobtype}", json.dumps(handler).encode())

    def add(self, jobtype: str, lines: list[bytes]) -> list[str]:
        answer = self.post(jobtype, lines)
        assert answer.status == 202, answer
        ids = answer.document["ids"]
        assert isinstance(ids, list)
        return ids

    def post(
        self,
        jobtype: str,
        lines: list[bytes],
        options: str = "",
        *,
        timeout: float = 70,
        key: str = "",
    ) -> Answer:
        """Add jobs, or be refused."""
        body = b"".join(line + b"\n" for line in lines)
        headers = {"Idempotency-Key": key} if key else {}
        path = f"/add?jobtype={jobtype}&ids=all{options}"
        return self.ask("POST", path, body, timeout=timeout, **headers)

    def job(self, id_: str) -> Any:
        return self.call("GET", f"/jobs/{id_}")

    def done(self, id_: str) -> Any:
        job = self.call("GET", f"/jobs/{id_}?wait=30")
        assert job["state"] == "done", job
        return job

    def jobs(self, **filters: str) -> Iterator[Any]:
        """Yield all jobs that a filter means, page by page, the newest first."""
        query = "".join(f"&{name}={value}" for name, value in filters.items())
        before = ""
        while True:
            page = self.call("GET", f"/jobs?limit=1000{query}{before}")
            yield from page["jobs"]
            if page["next"] is None:
                return
            before = f"&before={page['next']}"

    def problems(self) -> str:
        """Return what is wrong by the words of the node; nothing when it is well."""
        health = self.call("GET", "/healthz")
        assert health["status"] == ("degraded" if health["problems"] else "ok")
        return "; ".join(health["problems"])

    def is_all_in(self) -> bool:
        """Return whether all that was accepted is in the store."""
        return bool(self.call("GET", "/status")["node"]["journal"]["pending_bytes"] == 0)

    def has_run(self, *jobtypes: str) -> bool:
        """Return whether all that was accepted is in the store, and of these nothing waits."""
        return self.is_all_in() and not any(map(self.count, jobtypes))

    def count(self, jobtype: str) -> int:
        """Return how many jobs of a jobtype are in the store and not done."""
        counts = self.call("GET", f"/types/{jobtype}?client=main")
        waiting: int = counts["waiting"] + counts["running"]
        return waiting

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._end()

    def quit(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end of the process; return its exit code."""
        return self._end()

    def _end(self) -> int:
        code = self.process.wait(40)
        self._reader.join(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log += self.process.stderr


def wait_until(condition: Callable[[], object], what: str, *, timeout_s: float = 30) -> None:
    """Ask again and again until something is so; fail when that takes too long."""
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"after {timeout_s} s still not: {what}"
        pause.wait(POLL_S)


def commands_of(node: Node) -> list[str]:
    """Return the processes that a node started, or that those started: they are where it
    is. One that is dead and not buried is nowhere, but still a child."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            is_there = parent == node.process.pid or (entry / "cwd").readlink() == node.folder
        except OSError:  # it is gone, or is another user's
            continue
        if is_there and int(entry.name) != node.process.pid:
            found.append(entry.name)
    return found


def bound_by_modes() -> list[str]:
    """Return the words before a command for which file modes hold, also when root runs it;
    skip the test where there is no such way."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may write everywhere, and there is no setpriv to take that away")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
