"""The composition root: builds the parts of a node, runs them, and ends them in order.

Threads: the event loop (HTTP in and out, processes), the committer (fsync), the engine
(steps and its store connection), one for the store connection of the API, and with a
PostgreSQL one that records runs that ended, and one for what nodes tell each other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import uvloop
from uvicorn._types import ASGI3Application

from slimq import __version__
from slimq.api.accept import Acceptor
from slimq.api.app import make_app
from slimq.api.jobs import Waits
from slimq.api.keys_pending import PendingKeys
from slimq.api.keys_restore import restore_keys
from slimq.api.server import Server
from slimq.api.turn import Turn
from slimq.api.waiting import JobWatch, SafeWatch
from slimq.config import ACCEPT, RUN, Config
from slimq.connections import Connections, connect
from slimq.core.jobid import Minter, make_sysid
from slimq.core.limits import CONNECTIONS_MAX, FILES_RESERVED, LOG_ITEMS_MAX
from slimq.dispatch import Dispatcher
from slimq.engine import Engine
from slimq.errors import DiskFull, JournalFailed, NotAccepting, SlimqError
from slimq.finish import Finisher, at_once
from slimq.ingest import Ingester
from slimq.janitor import Janitor
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.commit import GroupCommit
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, JobLine, Position
from slimq.journal.writer import JournalWriter
from slimq.node_port import Parts, Port
from slimq.node_state import StateFile, StopFlag, Switch, kept_secret
from slimq.runner.flight import WATCH_S, Flight, Flights, first_ids
from slimq.runner.sandbox import Sandbox
from slimq.runners import FunctionCells, Runners, kill_started_by
from slimq.scheduler import Scheduler
from slimq.store.base import Cursor
from slimq.store.opening import open_news
from slimq.system.chance import Chance, SystemChance
from slimq.system.clock import SystemClock
from slimq.system.disk import SystemDisk
from slimq.system.log import EventLog, frames
from slimq.system.process import raise_open_files

CHILDREN_TIMEOUT_S = 20.0  # shorter than a lease: the engine waits meanwhile
LOG_AFTER_S = 0.01  # what is accepted by then is one line of the log
NEWS_TIMEOUT_S = 1.0  # it may be connecting to a server that does not answer
WORKERS_REASK_S = 0.1  # for one who waits for a job that another worker may run


class Seat(NamedTuple):
    """What a node gets as one of several behind one port. Without `listener` it serves
    nobody: it brings a journal that was left over into the store, and ends. `quit` ends
    all of them."""

    listener: socket.socket | None
    quit: Callable[[], None]


def run(
    config: Config,
    *,
    log: EventLog,
    ready: Callable[[str], None],
    seat: Seat | None = None,
    landed: Callable[[Flight], None] | None = None,
) -> int:
    """Run a node until it is told to quit; return the exit code. `landed` sees each run that
    ended. Raises StartError."""
    return uvloop.run(Node(config, log, SystemChance(), seat, landed=landed).serve(ready))


class Node:
    """One node. `sandbox` is that of functions; without one the node makes what the machine and the
    configuration allow."""

    def __init__(
        self,
        config: Config,
        log: EventLog,
        chance: Chance,
        seat: Seat | None = None,
        sandbox: Sandbox | None = None,
        landed: Callable[[Flight], None] | None = None,
    ) -> None:
        self._seen_landing = landed
        self._seat = seat
        self._config = config
        self._log = log
        self._clock = SystemClock()
        self._chance = chance
        self._roles = config.server.roles
        self.sysid = make_sysid(self._chance.token(6))
        self._minter = Minter(self.sysid)
        disk = SystemDisk()
        self._writer = JournalWriter(
            config.journal_path, disk=disk, clock=self._clock, chance=self._chance
        )
        self._recovery = self._writer.open()
        self._state_file = StateFile(config.node_path / "node.json")
        self._state = self._state_file.read()
        self._switch = Switch(StopFlag(Path(config.data.path)), self._apply_stopped)
        self._reader = JournalReader(self._writer)
        self._commit = GroupCommit(
            self._writer,
            self._deliver,
            clock=self._clock,
            synced=lambda: self._engine.accepted(),
        )
        self._budget = BodyBudget(config.journal_path, disk=disk, body_max=config.accept.body_max)
        self._connections = Connections(config, self._clock)
        self._store = self._connections.engine
        self._news = open_news(
            config.store.url,
            clock=self._clock,
            chance=self._chance,
            heard=lambda what: self._engine.heard(what),
        )
        self._jobs = JobWatch()
        self._safe = SafeWatch()
        self._url = ""
        self._accepted = 0
        self._unlogged: list[Append] = []  # accepted, and not in the log yet
        self._started_at = self._clock.wall_ms()
        self._quit = asyncio.Event()
        self._failed = False
        self._cells = FunctionCells(config, sandbox)

    async def serve(self, ready: Callable[[str], None]) -> int:
        self._loop = asyncio.get_running_loop()
        examination = self._loop.run_in_executor(None, self._cells.examine)
        self._store.check()
        self._kill_leftovers()
        await examination
        self._build()
        waits = Waits(WORKERS_REASK_S) if self._seat else Waits()
        app = cast("ASGI3Application", make_app(self._port, self._acceptor, waits))
        files = raise_open_files(CONNECTIONS_MAX + FILES_RESERVED)
        room = min(CONNECTIONS_MAX, files - min(FILES_RESERVED, files // 2))
        server = Server(app, self._acceptor, connections_max=room)
        port = await self._listen(server)
        threads = self._start_threads()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._quit.set)
        watch = asyncio.create_task(self._watch())
        event = "node.left_over" if self._is_left_over else "node.started"
        self._log.info(event, sysid=self.sysid, port=port, cut=self._recovery.cut_bytes)
        self._say_what_the_sandbox_lacks()
        ready(self._url)
        if self._is_left_over:
            await self._end_when_over()
        await self._quit.wait()
        await self._drain(server, threads)
        watch.cancel()
        self._cells.close()
        self._log_accepted()
        self._log.info("node.ended", sysid=self.sysid)
        return 1 if self._failed else 0

    def quit(self) -> None:
        """Begin to drain and exit, with all nodes behind the same port; returns at once."""
        self._quit.set()
        if self._seat is not None:
            self._seat.quit()

    def _start_threads(self) -> list[threading.Thread]:
        """Return that of the commit, that of the engine, and the one for news if there is any."""
        runs = [("commit", self._commit.run), ("engine", self._engine.run)]
        if self._news is not None:
            runs.append(("news", self._news.run))
        threads = [
            threading.Thread(target=self._guarded, args=(run,), name=name, daemon=name == "news")
            for name, run in runs
        ]
        for thread in threads:
            thread.start()
        return threads

    def _say_what_the_sandbox_lacks(self) -> None:
        level = self._cells.level
        if level is not None and level.lacking and not self._is_left_over:
            self._log.warning("sandbox.lacking", **level._asdict())

    # --- building ----------------------------------------------------------

    def _kill_leftovers(self) -> None:
        """Commands that a killed node left running must not run beside the next try of
        their jobs, which are taken back at once."""
        killed = kill_started_by(self._state.former)
        if killed:
            self._log.warning("commands.killed", processes=killed)

    def _build(self) -> None:
        config = self._config
        self._ingester = Ingester(
            self._writer,
            self._reader,
            self._store,
            retain_ms=config.journal.retain_ms,
            forget_keys=lambda headers: self._call(self._acceptor.ingested, headers),
        )
        self._runners = Runners(config, self.sysid, self._secrets(), self._cells, self._clock)
        scheduler = Scheduler(self._runners.slots)
        self._flights = Flights(self._runners.of_lang, self._clock, self._landed)
        self._dispatcher = Dispatcher(
            self._store,
            scheduler,
            self._clock,
            self.sysid,
            lambda flights: self._call(self._start_flights, flights),
            lambda flights: self._call(self._flights.kill, flights),
        )
        finish_thread = self._connections.finish_thread
        self._engine = Engine(
            store=self._store,
            clock=self._clock,
            chance=self._chance,
            ingester=self._ingester,
            scheduler=scheduler,
            dispatcher=self._dispatcher,
            finisher=Finisher(
                self._connections.finish, self.sysid, self._chance, self._add_children
            ),
            janitor=self._janitor(),
            log=self._log,
            moved=lambda ids: self._call(self._jobs.moved, ids),
            safe=lambda position: self._call(self._on_safe, position),
            tell=lambda what: self._news.tell(what) if self._news is not None else None,
            submit=at_once if finish_thread is None else finish_thread.submit,
        )
        self._engine.stopped = self._switch.stopped or RUN not in self._roles
        self._port = Port(self.sysid, self._started_at, self._parts())
        self._acceptor = Acceptor(
            minter=self._minter,
            submit=Turn(self._commit).submit,
            refusal=self._refusal,
            new_body=lambda: Body(self._budget),
            body_max=config.accept.body_max,
            clock=self._clock,
            node=self._port,
            keys=PendingKeys(),
        )
        self._restore_keys()
        self._state.add(self.sysid)
        self._keep_state()

    def _parts(self) -> Parts:
        return Parts(
            config=self._config,
            clock=self._clock,
            minter=self._minter,
            writer=self._writer,
            reader=self._reader,
            ingester=self._ingester,
            engine=self._engine,
            runners=self._runners,
            cells=self._cells,
            asker=self._connections.asker,
            news=self._news,
            jobs=self._jobs,
            safe=self._safe,
            switch=self._switch,
            quitting=self._quit,
            quit=self.quit,
            accepted=lambda: self._accepted,
        )

    def _landed(self, flight: Flight) -> None:
        self._engine.landed(flight)
        if self._seen_landing is not None:
            self._seen_landing(flight)

    def _janitor(self) -> Janitor:
        config = self._config
        return Janitor(
            self._store,
            self.sysid,
            self._started_at,
            self._about,
            clock=self._clock,
            ok_ms=config.purge.ok_ms,
            failed_ms=config.purge.failed_ms,
            bytes_max=config.store.bytes_max,
            former=self._state.former,
            forgotten=lambda sysid: self._call(self._forget_boot, sysid),
        )

    def _about(self) -> dict[str, Any]:
        """What others may know of this node. Called on the engine's thread."""
        return {
            "version": __version__,
            "roles": list(self._roles),
            "host": socket.gethostname(),
            "url": self._url,
            "worker": self._config.worker,
            "pid": os.getpid(),
            "data": str(self._config.node_path.absolute()),
            "journal_pending_bytes": self._ingester.pending_bytes(),
            "clock_skew_ms": self._clock.wall_ms() - self._store.now(),
        }

    def _refusal(self) -> SlimqError | None:
        """Return why no new jobs are accepted now, or None."""
        if ACCEPT in self._roles:
            return self._writer.refusal()
        role = "server.roles of this node has no accept: add jobs at a node that has it"
        return NotAccepting(role)

    def _restore_keys(self) -> None:
        """Remember the keys of what the journal holds and the store may not know yet."""
        with suppress(SlimqError):  # the store is down: all that is retained is looked at
            self._ingester.start()
        restore_keys(self._acceptor, self._reader, self._ingester.position)

    def _secrets(self) -> list[str]:
        if self._config.http.secrets:
            return list(self._config.http.secrets)
        return [kept_secret(self._config.secret_path, self._chance)]

    # --- between the threads -----------------------------------------------

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread. A bug in it ends the node, loudly, with exit code 1: a node that
        accepts and never runs, or runs and never answers, would look well."""
        try:
            run()
        except Exception as error:  # a bug of ours, whatever it is
            name = threading.current_thread().name
            self._log.error("thread.died", thread=name, reason=repr(error), at_code=frames(error))
            self._failed = True
            self._call(self._quit.set)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run something on the loop soon. At the very end the loop may be gone."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _deliver(self, group: list[Append]) -> None:
        self._call(self._acknowledge, group)
        self._engine.accepted()

    def _acknowledge(self, group: list[Append]) -> None:
        for append in group:
            if append.done is not None:
                append.done(append)
        written = [append for append in group if append.error is None]
        self._accepted += sum([append.header.count for append in written])
        if written and not self._unlogged:
            self._loop.call_later(LOG_AFTER_S, self._log_accepted)
        self._unlogged += written
        if len(self._unlogged) >= LOG_ITEMS_MAX:
            self._log_accepted()

    def _log_accepted(self) -> None:
        """Not with the answers: the engine waits for this thread to begin with the jobs."""
        written, self._unlogged = self._unlogged, []
        if written:
            count = sum([append.header.count for append in written])
            requests = sum([append.requests for append in written])
            first = [append.header.id for append in written[:LOG_ITEMS_MAX]]
            self._log.info("jobs.accepted", count=count, requests=requests, ids=first)

    def _start_flights(self, flights: list[Flight]) -> None:
        self._flights.start(flights)
        self._loop.call_soon(self._log_started, flights)  # behind them: they do not wait for it

    def _log_started(self, flights: list[Flight]) -> None:
        """Log the start of flights, which are of one type."""
        self._log_accepted()  # first comes first
        count = sum([len(flight.batch.jobs) for flight in flights])
        ids = first_ids(flights)
        self._log.info("jobs.started", count=count, type=flights[0].batch.type, ids=ids)

    def _add_children(self, lines: list[JobLine]) -> None:
        """Journal the children of a run; called on the thread that records it."""
        written = threading.Event()
        body = Body.of(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
        header = Header(lines[0].id, len(lines), self._clock.wall_ms(), kind="jobs")
        append = Append(header, body, done=lambda _: written.set())
        self._commit.submit(append)
        if not written.wait(CHILDREN_TIMEOUT_S):
            raise JournalFailed("the journal did not take the children in time")
        if append.error is not None:
            raise append.error

    def _on_safe(self, position: Position) -> None:
        """When somebody waits for more, the engine is behind, and goes on by itself. To wake
        it would make it spin while the journal cannot be read."""
        if self._safe.reach(position):
            self._engine.want_safe = True

    def _forget_boot(self, sysid: str) -> None:
        if sysid in self._state.former:
            self._state.former.remove(sysid)
            self._keep_state()

    def _keep_state(self) -> None:
        """On a full disk the next boot waits for leases to end, and loses nothing."""
        try:
            self._state_file.save(self._state)
        except DiskFull as error:
            self._log.warning("state.unsaved", reason=error.detail)

    def _apply_stopped(self, stopped: bool) -> None:
        self._engine.stopped = stopped or RUN not in self._roles
        self._log.info("engine.stopped" if stopped else "engine.started")
        self._engine.wake()

    async def _watch(self) -> None:
        """See now and then to what nobody tells: leases that end, and other workers' stops."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._flights.watch()
            self._switch.look()

    # --- among others behind one port --------------------------------------

    @property
    def _is_left_over(self) -> bool:
        return self._seat is not None and self._seat.listener is None

    async def _listen(self, server: Server) -> int:
        settings = self._config.server
        if self._seat is None:
            port = await server.start(settings.host, settings.port)
        elif self._seat.listener is not None:
            port = await server.serve_on(self._seat.listener)
        else:
            return 0
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._url = f"http://{host}:{port}"
        return port

    async def _end_when_over(self) -> None:
        while not self._quit.is_set():
            if self._ingester.is_over():
                self._quit.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quit.wait(), WATCH_S)

    # --- the end -----------------------------------------------------------

    async def _drain(self, server: Server, threads: list[threading.Thread]) -> None:
        """Accept and start nothing new; let what runs end; give back what does not; close
        in order."""
        grace = self._config.server.drain_ms / 1000
        self._engine.drain()
        await asyncio.gather(server.stop(grace), self._land(grace))
        self._engine.end()
        await self._loop.run_in_executor(None, threads[1].join)
        if self._news is not None:
            self._news.end()
            await self._loop.run_in_executor(None, threads[2].join, NEWS_TIMEOUT_S)
        self._commit.close()
        await self._loop.run_in_executor(None, threads[0].join)
        await self._runners.close()
        with suppress(SlimqError):  # the store is down: others see it go by its lease
            self._store.leave(self.sysid)
            if self._engine.holds_no_lease:  # else the next boot takes its jobs back
                self._state.former.remove(self.sysid)
                self._keep_state()
        self._connections.close()
        if self._is_left_over and self._ingester.is_over():
            with suppress(OSError):  # then it is left over the next time as well
                self._writer.retire()
        self._writer.close()

    async def _land(self, grace_s: float) -> None:
        """Let what runs end for at most so long; kill the rest."""
        await self._loop.run_in_executor(None, self._engine.holds.wait)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._flights.idle(), grace_s)
        self._flights.kill_all()
        await self._flights.idle()


def replay(config: Config, since_segment: int) -> None:
    """Set a stopped node's ingest back to a segment: what the journal still holds from
    there on is read again at the next start. Jobs that are in the store are passed over.

    Raises FolderHeld while the node runs, and StoreUnavailable.
    """
    clock = SystemClock()
    writer = JournalWriter(
        config.journal_path, disk=SystemDisk(), clock=clock, chance=SystemChance()
    )
    writer.open()
    store = connect(config, clock, durable=True)
    try:
        store.ingest(writer.name, store.cursor(writer.name), Cursor(since_segment), [])
    finally:
        store.close()
        writer.close()
