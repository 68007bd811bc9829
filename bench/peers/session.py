"""One system, run for one workload: its broker, its clients, its workers, what they did."""

from __future__ import annotations

import json
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from peers.brokers import Brokers
from peers.processes import cpu_seconds, memory_mb, running
from peers.systems import PROGRAMS, System
from postgres_server import free_port

sys.path.append(str(PROGRAMS))
from hits import FOLDER, HEAD

ANSWER_S = 120.0
POLL_S = 0.005
PROBE_S = 0.02  # between jobs that are watched while many are sent
CLIENTS = 2  # processes, as many as there are cores on a small machine


class Hits(NamedTuple):
    """What all handlers did so far; times in nanoseconds of CLOCK_MONOTONIC, latencies too."""

    count: int
    first: int
    last: int
    latencies: list[int]

    def at_first(self) -> Hits:
        """Return how it was before the first one."""
        return Hits(0, self.first, self.first, [])


class Stuck(RuntimeError):
    """A program of a peer did not do what it was asked for."""


class Client:
    """A process that answers questions; see programs/serving.py."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def tell(self, do: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | more).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the answer. Raises Stuck."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise Stuck(f"a client did not answer: {what_was_said(self._log)}")
        return dict(json.loads(line))


class Session:
    """A system that runs, with nothing in it. A context manager."""

    def __init__(self, system: System, brokers: Brokers, folder: Path) -> None:
        self.system, self.folder = system, folder
        self._environment = system.program.install()
        self._stack = ExitStack()
        self._log = folder / "log"
        self._hits = folder / "hits"
        self._clients: list[Client] = []
        self._workers: list[int] = []
        self._hits.mkdir()
        try:
            self.broker = self._stack.enter_context(system.broker(brokers, folder))
            self._env = self._environment.env | self.broker.env
            self._env |= {"BENCH_URL": self.broker.url, FOLDER: str(self._hits)}
            self._env["BENCH_HANDLER_PORT"] = str(free_port())
            said = self.ask("setup")["version"]
        except BaseException:
            self._stack.close()
            raise
        self.version = ", ".join(filter(None, (said, self.broker.version)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Ask the first client. Raises Stuck."""
        client = self._some_clients(1)[0]
        client.tell(do, **more)
        return client.answer()

    def call(self, callers: int, seconds: float) -> list[dict[str, Any]]:
        """Let callers send single jobs, from two processes where there are two of them."""
        clients = self._some_clients(min(CLIENTS, callers))
        for number, client in enumerate(clients):
            share = (callers + number) // len(clients)
            client.tell("call", callers=share, seconds=seconds, rate=0)
        return [client.answer() for client in clients]

    def call_at(self, rate: float, callers: int, seconds: float) -> tuple[dict[str, Any], int]:
        """Let callers send so many single jobs a second from one process, and a process of its
        own some that say when they were sent; return how the others went, and how many it were."""
        calling, probing = self._some_clients(CLIENTS)
        probing.tell("probe", seconds=seconds, each_s=PROBE_S)
        calling.tell("call", callers=callers, seconds=seconds, rate=rate)
        return calling.answer(), int(probing.answer()["count"])

    def bulk(self, count: int, seconds: float, delay_s: int = 0) -> dict[str, Any]:
        return self.ask("bulk", count=count, seconds=seconds, delay_s=delay_s)

    def hits(self) -> Hits:
        """Return what handlers did."""
        count, firsts, lasts, latencies = 0, [], [], []
        for path in self._hits.iterdir():
            data = path.read_bytes()
            if len(data) < HEAD.size:
                continue  # its process is just making it
            ran, first, last, stamped = HEAD.unpack_from(data)
            if first:
                count += ran
                firsts.append(first)
                lasts.append(last)
            latencies += struct.unpack_from(f"={stamped}q", data, HEAD.size)
        return Hits(count, min(firsts, default=0), max(lasts, default=0), latencies)

    @contextmanager
    def workers(self, kinds: Sequence[Sequence[str]]) -> Iterator[None]:
        with ExitStack() as stack:
            for kind in kinds:
                process = stack.enter_context(self._run(self._command(kind)))
                self._workers.append(process.pid)
            try:
                yield
            finally:
                self._workers.clear()

    @property
    def lone_workers(self) -> Sequence[Sequence[str]]:
        return self.system.program.lone or self.system.program.workers

    def served_seconds(self) -> float:
        """Return the processor time of broker and workers."""
        return cpu_seconds([*self.broker.pids, *self._workers])

    def all_seconds(self) -> float:
        """Return the processor time of the clients as well."""
        clients = [client.process.pid for client in self._clients]
        return self.served_seconds() + cpu_seconds(clients)

    def memory_mb(self) -> float:
        """Return the proportional set of broker and workers."""
        return memory_mb([*self.broker.pids, *self._workers])

    def wait(self, enough: int, seconds: float) -> Hits:
        """Wait for so many handler starts, at most so long; return what there is then."""
        end = time.monotonic() + seconds
        while (hits := self.hits()).count < enough and time.monotonic() < end:
            time.sleep(POLL_S)
        return hits

    def await_all(self, enough: int, seconds: float) -> Hits:
        """Wait for so many handler starts. Raises Stuck when it takes longer."""
        hits = self.wait(enough, seconds)
        if hits.count < enough:
            said = what_was_said(self._log)
            raise Stuck(f"{hits.count} jobs ran, not {enough}, in {seconds:g} s: {said}")
        return hits

    def _some_clients(self, count: int) -> list[Client]:
        while len(self._clients) < count:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = self._stack.enter_context(self._run(self._command(("client",)), **pipes))
            self._clients.append(Client(process, self._log))
        return self._clients[:count]

    def _command(self, given: Sequence[str]) -> list[str]:
        words = [word.format(url=self.broker.url) for word in given]
        if words[0].startswith("/"):
            return [str(self._environment.bin / words[0][1:]), *words[1:]]
        return [*self._environment.run, str(PROGRAMS / self.system.program.file), *words]

    def _run(self, command: Sequence[str], **pipes: int) -> Any:
        return running(command, self.folder, self._log, self._env, **pipes)


def what_was_said(log: Path) -> str:
    """Return the last error that a log names, else its end."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    errors = [line for line in text.splitlines() if re.search(r"Error\b|Exception\b", line)]
    return (errors[-1] if errors else text)[-300:] or "nothing was said"
