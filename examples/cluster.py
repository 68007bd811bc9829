"""Three nodes on one PostgreSQL, under a steady load, to try things on: `make cluster`.

It starts a PostgreSQL and the nodes in temporary folders, puts a handler through one of the
nodes, adds lines to all of them in turn, and shows what each has accepted and done. Kill a node,
or PostgreSQL, and see what happens; it is started again, as a supervisor would do.

It runs until Ctrl-C or SIGTERM, ends every process and removes the folders. With `--seconds`
it ends by itself, when all that was accepted is done and checked; if not, the exit code is 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from child import Child
from demo import DIRECT, Screen
from postgres_server import Guard, NoPostgres, PostgresServer, free_port

EXAMPLES = Path(__file__).resolve().parent
NODES = 3
BATCH = 100
TICK_S = 0.1
WAITING_MAX = 20_000  # with more than this the load pauses
STALL_S = 60.0  # jobs that a killed node was running go on in less
DOWN_S = 5.0  # how long what was killed stays dead, so that it can be seen
ANSWER_S = 5.0
UNREACHABLE = (OSError, http.client.HTTPException)


def ask(method: str, url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, method=method)
    with DIRECT.open(request, timeout=ANSWER_S) as answer:
        return json.load(answer)


class Signals:
    """Whether somebody has asked for the end. No signal interrupts anything in between."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


class Rest:
    """How long something is dead until it is started again."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_over(self, is_dead: bool) -> bool:
        """Return True once for each death, DOWN_S after the first look that saw it."""
        if not is_dead:
            return False
        if self._since is None:
            self._since = time.monotonic()
        if time.monotonic() < self._since + DOWN_S:
            return False
        self._since = None
        return True


class Node:
    """A node of the cluster, and what it last said of itself. A context manager."""

    def __init__(self, number: int, folder: Path, store_url: str) -> None:
        self.name = f"node {number}"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.accepted = self.done = 0
        self._before = (0, 0)  # what it had accepted and done when it died
        self._rest = Rest()
        self._folder = folder
        self._number = number
        self._words = ["-m", "slimq", "serve", "--port", str(port), "--data", f"data-{number}"]
        self._store_url = store_url
        self._start()

    def _start(self) -> None:
        log = f"node-{self._number}.log"
        self._child = Child(self._words, self._folder, log, SLIMQ_STORE__URL=self._store_url)

    @property
    def pid(self) -> int:
        return self._child.pid

    def is_dead(self) -> bool:
        return self._child.exit_code(0) is not None

    def ready(self) -> None:
        """Return when it takes requests. Raises RuntimeError when it ends instead."""
        self._child.address()

    def tend(self) -> None:
        """Ask what it has accepted and done; start it again when it has been dead for a while."""
        if self._rest.is_over(self.is_dead()):
            self._before = (self.accepted, self.done)
            self._child.__exit__()
            self._start()
            self.ready()
        elif not self.is_dead():
            self._look()

    def add(self, lines: list[str]) -> int:
        """Add a job for each line; return how many it has accepted: all, or none."""
        try:
            body = "".join(f"{line}\n" for line in lines).encode()
            count: int = ask("POST", f"{self.url}/add?jobtype=hash&client=load", body)["count"]
        except UNREACHABLE:
            return 0
        return count

    def _look(self) -> None:
        try:
            counters = ask("GET", f"{self.url}/status")["node"]["counters"]
        except UNREACHABLE:
            return
        finished = counters["finished"]
        self.accepted = self._before[0] + counters["accepted"]
        self.done = self._before[1] + finished["ok"] + finished["failed"] + finished["error"]

    def __str__(self) -> str:
        return f"{self.name}: {self.accepted}/{self.done}{' DEAD' if self.is_dead() else ''}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.__exit__()


class Cluster:
    """PostgreSQL and the nodes, and what was accepted of the load and is done."""

    def __init__(self, server: PostgresServer, nodes: list[Node], rate: int) -> None:
        self.nodes = nodes
        self.accepted = self.done = self.failed = 0
        self._server = server
        self._rest = Rest()
        files = sorted(str(path) for path in EXAMPLES.iterdir() if path.is_file())
        count = max(1, round(rate * TICK_S / len(nodes)))
        self._lines = [files[number % len(files)] for number in range(count)]
        self._started = time.monotonic()

    def put_handler(self) -> None:
        """Put a handler through one node: it is for all of them."""
        command = [sys.executable, str(EXAMPLES / "hash_lines.py")]
        handler = {"lang": "exec", "body": command, "options": {"batch_size": BATCH}}
        ask("PUT", f"{self.nodes[0].url}/handlers/hash", json.dumps(handler).encode())

    def add(self) -> None:
        """Give every node some lines, unless too many wait."""
        if self.accepted < self.done + WAITING_MAX:
            self.accepted += sum(node.add(self._lines) for node in self.nodes)

    def look(self) -> None:
        """Ask how far they are, and start again what is dead."""
        if self._rest.is_over(self._is_down()):
            self._server.kill()  # nothing of it may be left
            self._server.start()
        for node in self.nodes:
            node.tend()
        for node in self.nodes:  # whichever answers: they see the same store
            try:
                load = ask("GET", f"{node.url}/types/hash?client=load")
            except UNREACHABLE:
                continue
            self.failed = load["failed"] + load["error"]
            self.done = load["ok"] + self.failed
            return

    def is_whole(self) -> bool:
        return not self._is_down() and not any(node.is_dead() for node in self.nodes)

    def _is_down(self) -> bool:
        return self._server.process is None or self._server.process.poll() is not None

    def __str__(self) -> str:
        rate = self.done / (time.monotonic() - self._started)
        nodes = ", ".join(map(str, self.nodes))
        down = "; PostgreSQL DEAD" if self._is_down() else ""
        return f"accepted {self.accepted}, done {self.done}, {rate:.0f} jobs/s; {nodes}{down}"


# --- from the start to the end -----------------------------------------------------------


def introduce(server: PostgresServer, store_url: str, nodes: list[Node], screen: Screen) -> None:
    one, two, three = nodes
    postgres = server.process.pid if server.process else 0
    screen.say(f"PostgreSQL   {store_url}   pid {postgres}")
    for node in nodes:
        screen.say(f"{node.name}       {node.url}   pid {node.pid}")
    screen.say(f"""
Try, in another terminal:

  # in at one node, perhaps run by another, asked for at a third
  ID=$(curl -s -H 'Accept: text/plain' --data-binary '/etc/hostname' '{one.url}/add?jobtype=hash')
  curl "{three.url}/jobs/$ID?wait=30"

  # how many wait, run and are done: every node says the same
  curl '{two.url}/types/hash?client=*'

  # what a node knows of itself, and of the others
  curl {two.url}/status

  # the handler may wait: what is added meanwhile waits for it, at all nodes
  curl -X POST {two.url}/types/hash/pause
  curl -X POST {three.url}/types/hash/resume

  # a node crashes: the others go on, and {DOWN_S:.0f} s later it is started again
  kill -9 {two.pid}

  # PostgreSQL crashes: all nodes go on accepting, and {DOWN_S:.0f} s later it is started again
  kill -9 {postgres}

Shown is, of each node, accepted/done. Ctrl-C ends it all.
""")


def run(cluster: Cluster, seconds: float | None, signals: Signals, screen: Screen) -> None:
    """Put load on, until the end is asked for or has come."""
    end = None if seconds is None else time.monotonic() + seconds
    while not signals.asked and (end is None or time.monotonic() < end):
        next_at = time.monotonic() + TICK_S
        cluster.add()
        cluster.look()
        screen.show(str(cluster))
        time.sleep(max(0.0, next_at - time.monotonic()))


def finish(cluster: Cluster, signals: Signals, screen: Screen) -> None:
    """Wait until all is done and nothing dead, unless somebody is in a hurry.

    Raises RuntimeError when no end is in sight, or jobs failed.
    """
    done, moved = -1, time.monotonic()
    while cluster.done < cluster.accepted or not cluster.is_whole():
        if signals.asked:
            return
        cluster.look()
        screen.show(str(cluster))
        if cluster.done > done:
            done, moved = cluster.done, time.monotonic()
        elif time.monotonic() > moved + STALL_S:
            raise RuntimeError(f"no other job is done in {STALL_S:.0f} s: {cluster}")
        time.sleep(TICK_S)
    cluster.look()
    if cluster.failed:
        raise RuntimeError(f"{cluster.failed} jobs failed: {cluster}")


def try_out(folder: Path, given: argparse.Namespace, signals: Signals, screen: Screen) -> None:
    with ExitStack() as started:
        server = started.enter_context(PostgresServer(durable=True))
        store_url = server.create_database("slimq")
        nodes = [
            started.enter_context(Node(number, folder, store_url)) for number in range(1, NODES + 1)
        ]
        for node in nodes:
            node.ready()
        cluster = Cluster(server, nodes, given.rate)
        cluster.put_handler()
        introduce(server, store_url, nodes, screen)
        run(cluster, given.seconds, signals, screen)
        finish(cluster, signals, screen)
        screen.say(str(cluster))
        screen.say("ending the nodes and PostgreSQL")


def main() -> int:
    parser = argparse.ArgumentParser(description="Try out three nodes on one PostgreSQL.")
    parser.add_argument("--seconds", type=float, help="end after so long (default: on Ctrl-C)")
    parser.add_argument("--rate", type=int, default=500, help="jobs a second (default 500)")
    given = parser.parse_args()
    if given.rate < 1:
        parser.error("--rate: at least 1")
    signals = Signals()
    folder = Path(tempfile.mkdtemp(prefix="slimq-cluster-"))
    guard = Guard(folder)
    try:
        try_out(folder, given, signals, Screen())
    except NoPostgres as error:
        shutil.rmtree(folder)
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, *UNREACHABLE) as error:
        if not signals.asked:  # else it is but what the signal has ended
            print(f"cluster: {error}\nthe logs are kept in {folder}", file=sys.stderr)
            return 1
    finally:
        guard.dismiss()
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
