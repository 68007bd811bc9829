"""Several nodes behind one port: starts their processes, and starts anew those that die.

    serving --- SIGTERM, SIGINT, or a worker was told to quit ---> ending: SIGTERM to all,
       |                                                           SIGKILL if that takes too long
       +-- a worker died: started anew at once, and later and
           later when it dies again and again right after its start

Each worker listens on a socket of its own at the one address (SO_REUSEPORT), which this
process keeps: callers that wait in the queue of a dead worker are served by the next one.
A journal in the folder of a worker that there is no more is brought into the store by a
process that does nothing else.
"""

from __future__ import annotations

import dataclasses
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from slimq.api.server import listen_beside
from slimq.config import NODES, Config
from slimq.errors import FolderUnusable
from slimq.system.clock import Clock
from slimq.system.fork import Body, Forks, Heard, Parent
from slimq.system.log import EventLog

STEADY_MS = 10_000  # who lived that long is started anew at once when it dies
PAUSE_MIN_MS, PAUSE_MAX_MS = 250, 10_000
DRAIN_MARGIN_MS = 5_000  # beside server.drain, to close what is open

# What a worker does, given its configuration and its socket.
Work = Callable[[Config, socket.socket | None], Body]


def left_over(config: Config) -> list[int]:
    """Return the numbers of workers that there are no more, and whose journals are there. Raises
    FolderUnusable where one may not look."""
    nodes = Path(config.data.path, NODES)
    try:
        journals = [path for path in nodes.glob("*/journal") if any(path.glob("*.journal"))]
    except OSError as error:
        raise FolderUnusable(f"{nodes} cannot be read: {error.strerror}") from error
    names = [path.parent.name for path in journals]
    numbers = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return sorted(number for number in numbers if number > config.server.workers)


class Pauses:
    """How long a worker waits until it is started anew: not at all, unless it dies again
    and again right after its start."""

    def __init__(self) -> None:
        self._early = 0

    def next_ms(self, lived_ms: int) -> int:
        self._early = self._early + 1 if lived_ms < STEADY_MS else 0
        if self._early < 2:
            return 0
        return int(min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** min(self._early - 2, 16)))


class Worker:
    """One place behind the port, and the process that has it now. Its socket is made when
    it starts, and kept over a restart unless the worker ended it."""

    def __init__(self, config: Config, reserved: socket.socket | None) -> None:
        self.config = config
        self.number = config.worker
        self.pauses = Pauses()
        self.pid: int | None = None
        self.is_ready = False  # this process
        self.was_ready = False  # this one or an earlier one
        self.started_at = self.start_at = 0  # boot time
        self._reserved = reserved
        self._listener: socket.socket | None = None

    @property
    def is_left_over(self) -> bool:
        return self._reserved is None

    def listener(self) -> socket.socket | None:
        """Return the socket to listen on; None for a worker that is left over."""
        if self._reserved is None:
            return None
        if self._listener is None or not _listens(self._listener):
            self.close()
            self._listener = listen_beside(self._reserved)
        return self._listener

    def close(self) -> None:
        """Take no more callers."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


class Supervisor:
    """Keeps the workers of one `slimq serve` running. `work` makes what a worker does,
    `ready` is called when all serve."""

    def __init__(
        self,
        config: Config,
        reserved: socket.socket,
        *,
        forks: Forks,
        clock: Clock,
        log: EventLog,
        work: Work,
        ready: Callable[[], None],
    ) -> None:
        self._forks, self._clock, self._log = forks, clock, log
        self._work, self._ready = work, ready
        self._reserved = reserved
        self._drain_ms = config.server.drain_ms
        numbers = range(1, config.server.workers + 1)
        self._workers = [Worker(_config_of(config, number), reserved) for number in numbers]
        self._workers += [
            Worker(_config_of(config, number, roles=()), None) for number in left_over(config)
        ]
        self._said_ready = False
        self._kill_at: int | None = None  # not None: it ends
        self._killed = False
        self.code = 0

    def run(self) -> int:
        """Serve until the end; return the exit code: that of a worker that could not start,
        1 when one failed while all ended, or 0."""
        while self.step():
            self.hear(self._forks.wait(self._patience_s()))
        return self.code

    def hear(self, heard: Heard) -> None:
        """Take note of what happened."""
        for worker in self._workers:
            if worker.pid in heard.ready:
                worker.is_ready = worker.was_ready = True
        if heard.end:
            self._end()

    def step(self) -> bool:
        """Do what is due; return whether there is still something to wait for."""
        for worker, code in self._buried():
            self._on_ended(worker, code)
        if self._kill_at is None:
            self._start_due()
            self._tell_ready()
        elif self._clock.boot_ms() >= self._kill_at:
            self._kill()
        return any(worker.pid is not None for worker in self._workers) or self._kill_at is None

    def _start_due(self) -> None:
        now = self._clock.boot_ms()
        for worker in self._workers:
            if worker.pid is None and worker.start_at <= now:
                worker.started_at, worker.is_ready = now, False
                try:
                    worker.pid = self._forks.fork(self._body_of(worker, worker.listener()))
                except OSError as error:
                    self._start_later(worker, f"no process: {error.strerror}")
                else:
                    self._log.info("worker.started", worker=worker.number, process=worker.pid)

    def _body_of(self, worker: Worker, listener: socket.socket | None) -> Body:
        others = [other for other in self._workers if other is not worker]

        def close_others_and_work(parent: Parent) -> int:
            self._reserved.close()
            for other in others:
                other.close()
            return body(parent)

        body = self._work(worker.config, listener)
        return close_others_and_work

    def _tell_ready(self) -> None:
        serving = [worker for worker in self._workers if not worker.is_left_over]
        if not self._said_ready and all(worker.was_ready for worker in serving):
            self._said_ready = True
            self._ready()

    def _buried(self) -> list[tuple[Worker, int]]:
        """Return the workers that ended, with their codes. Their pids are forgotten before
        anything is signalled: they may be those of others soon."""
        codes = dict(self._forks.bury())
        ended = [(worker, codes[worker.pid]) for worker in self._workers if worker.pid in codes]
        for worker, _ in ended:
            worker.pid = None
        return ended

    def _on_ended(self, worker: Worker, code: int) -> None:
        if self._kill_at is not None:
            self._note_end(worker, code)
        elif worker.is_left_over and code == 0:
            self._workers.remove(worker)
            self._log.info("journal.brought_in", worker=worker.number)
        elif code > 0 and not worker.was_ready:
            self.code = code  # it cannot start, and has said why
            self._end()
        else:
            self._start_later(worker, f"exit code {code}")

    def _note_end(self, worker: Worker, code: int) -> None:
        """One that was told to end before it had begun has not failed."""
        if code != 0 and not (code == -signal.SIGTERM and not worker.is_ready):
            self._log.error("worker.failed", worker=worker.number, code=code)
            self.code = self.code or 1

    def _start_later(self, worker: Worker, reason: str) -> None:
        now = self._clock.boot_ms()
        pause_ms = worker.pauses.next_ms(now - worker.started_at)
        worker.start_at = now + pause_ms
        self._log.warning("worker.died", worker=worker.number, reason=reason, pause_ms=pause_ms)
        if pause_ms:
            worker.close()  # nobody is to wait in its queue meanwhile

    def _end(self) -> None:
        if self._kill_at is None:
            self._kill_at = self._clock.boot_ms() + self._drain_ms + DRAIN_MARGIN_MS
            self._reserved.close()
            for worker in self._workers:
                worker.close()
            self._signal_all(signal.SIGTERM)

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            numbers = [worker.number for worker in self._workers if worker.pid is not None]
            self._log.error("workers.killed", workers=numbers)
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                self._forks.send(worker.pid, number)

    def _patience_s(self) -> float | None:
        """Return how long nothing is due; None: as long as nothing happens."""
        now = self._clock.boot_ms()
        if self._kill_at is not None:
            return max(0, self._kill_at - now) / 1000 if self._kill_at > now else None
        waiting = [worker.start_at for worker in self._workers if worker.pid is None]
        return max(0, min(waiting) - now) / 1000 if waiting else None


def _config_of(config: Config, number: int, roles: tuple[str, ...] | None = None) -> Config:
    server = config.server
    if roles is not None:
        server = dataclasses.replace(server, roles=roles)
    return dataclasses.replace(config, server=server, worker=number)


def _listens(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
