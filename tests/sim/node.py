"""A simulated node: the parts of `slimq.node.Node`, with its threads as actors."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sim.disk import CUTS, VirtualDisk
from sim.loop import VirtualLoop
from sim.parts import ApiThread, Bell, SimChance, SimClock, WakingCommit
from sim.runner import SimRunner
from sim.store import FaultyStore
from sim.world import Actor, Crashed, Process
from slimq.api.accept import Acceptor
from slimq.api.accept_jobs import JobsAcceptor
from slimq.api.keys_pending import PendingKeys
from slimq.api.keys_restore import restore_keys
from slimq.api.turn import Turn
from slimq.api.waiting import SafeWatch
from slimq.asking import Asker
from slimq.core.jobid import Minter, make_sysid
from slimq.dispatch import Dispatcher
from slimq.engine import Engine, SysidTaken
from slimq.errors import (
    DurabilityUnmet,
    JournalFailed,
    SlimqError,
    StartError,
)
from slimq.finish import Finisher
from slimq.ingest import Ingester
from slimq.janitor import Janitor
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, JobLine, Position
from slimq.journal.writer import JournalWriter
from slimq.runner.flight import WATCH_S, Flight, Flights
from slimq.scheduler import Scheduler
from slimq.system.log import EventLog

if TYPE_CHECKING:
    from sim.story import Story

JOURNAL = Path("/data/journal")
SEGMENT_BYTES = 24 * 1024
RESERVE_BYTES = 64 * 1024
RETAIN_MS = 15 * 60_000
OK_MS, FAILED_MS = 3 * 60_000, 20 * 60_000
SLOTS = 6
STORED_TIMEOUT_S = 10.0
CHILDREN_TIMEOUT_MS = 20_000
GRACE_MS = 20_000
BOOT_PAUSE_MS = (500, 60_000)


class SimNode:
    """One data folder, and the processes that run on it one after the other. Its troubles
    are set by the story: `*_trouble` are chances for each call."""

    def __init__(self, story: Story, number: int, clock: SimClock) -> None:
        self.sim = story
        self.name = f"n{number}"
        self.world = story.world
        self.chance = story.world.chance
        self.clock = clock
        self.disk = VirtualDisk(self.chance, clock.wall_ms)
        self.former: list[str] = []
        self.store_trouble = 0.0
        self.write_trouble = 0.0
        self.read_trouble = 0.0
        self.slow_sync_ms = 0
        self.cut_off = False
        self.answers_arrive = False  # the store is a file: what it does is known
        self.process = Process(f"{self.name}.0")
        self.process.alive = False
        self.calm_since = -1  # what hit the process last, before it lost power
        self._boots = 0
        self._built = False
        self.up = False  # it serves callers

    @property
    def is_cut_off(self) -> bool:
        return self.cut_off or self.sim.store_down

    @property
    def quiet(self) -> bool:
        """Whether nothing ails it."""
        return not (self.is_cut_off or self.store_trouble or self.write_trouble)

    # Faults.

    def hit(self, kind: str, about: str = "") -> None:
        self.process.hit_at = self.world.now
        self.world.fault(kind, f"{self.name} {about}")

    def may_crash(self) -> None:
        """Called at every call to disk and store."""
        process = self.process
        if process.crash_in > 0:
            process.crash_in -= 1
            if process.crash_in == 0:
                self.crash("crash at a call")
        self.world.check_alive(process)

    def crash(self, kind: str) -> None:
        """End the process; who is inside of it ends when he goes on."""
        if self.process.alive:
            if self.process.power_cut_next:
                self.sim.cut_power(self)
                return
            self.hit(kind)
            self.world.kill(self.process)

    def lose_power(self) -> None:
        if self.process.alive:
            self.calm_since = self.process.hit_at
            self.hit("power cut")
            self.process.lost_power = True
            self.world.kill(self.process)
        else:
            self.disk.power_cut(self.chance.choice(CUTS))

    def crash_soon(self, kind: str) -> None:
        process = self.process

        def now() -> None:
            if process is self.process:
                self.crash(kind)

        self.world.at(1, f"{self.name} crashes", now)

    def _gate(self, name: str) -> None:
        self.may_crash()
        trouble = self.read_trouble if name in ("pread", "open") else self.write_trouble
        if name in ("free_bytes", "facts", "names"):
            return
        if trouble and self.chance.random() < trouble:
            self.hit("disk EIO", name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if name == "fsync":
            self.world.note(f"{self.name} syncs")
            if self.slow_sync_ms and self.chance.random() < 0.3:
                ms = self.chance.randrange(self.slow_sync_ms)
                self.hit("slow sync", str(ms))
                self.world.wait(ms)

    # Start and end.

    def start(self) -> None:
        """Start a process; one that cannot start, or dies, is started again."""
        self._boots += 1
        process = self.process = Process(f"{self.name}.{self._boots}")
        process.end = lambda: self._died(process)
        self.disk.gate = self._gate
        self.world.wake(Actor(f"{process.name} boots", self._boot, process))

    def _died(self, process: Process) -> None:
        self.disk.gate = lambda name: None
        lost = [header.id for header in self.writer.unsynced] if self._built else []
        if self._built:
            self.loop.end()
            self.sim.closed(self)
        self._built = self.up = False
        if process.lost_power:
            self.disk.power_cut(self.chance.choice(CUTS))
            self.sim.buffered_lost(self, lost)
        else:
            self.disk.process_died()
        self.sim.node_died(self)

    def _boot(self) -> None:
        try:
            self._open()
        except StartError as error:
            self.world.note(f"{self.name} cannot start: {type(error).__name__}")
            self.world.kill(self.process)
            raise Crashed from None
        self._build()
        self._built = True
        self._restore()
        self.up = True
        self.world.note(f"{self.name} up as {self.sysid}")
        self.sim.node_up(self)
        for actor in (self._engine_actor, self._commit_actor, self._loop_actor):
            self.world.wake(actor)
        self.loop.call_soon(self._watch)

    def _open(self) -> None:
        self.writer = JournalWriter(
            JOURNAL,
            disk=self.disk,
            clock=self.clock,
            chance=SimChance(self.chance),
            segment_bytes=SEGMENT_BYTES,
            reserve_bytes=RESERVE_BYTES,
        )
        self.writer.open()
        self.reader = JournalReader(self.writer)

    def _build(self) -> None:
        process, world = self.process, self.world
        self.sysid = make_sysid(self.chance.randbytes(6))
        self.quitting = self.stopped = False
        self._loop_actor = Actor(f"{self.name} loop", lambda: self.loop.turn(), process)
        self.loop = VirtualLoop(self.clock.boot_ms, lambda: world.wake(self._loop_actor))
        self._commit_actor = Actor(f"{self.name} commit", self._commit_turn, process)
        self.commit = WakingCommit(self.writer, self._deliver, clock=self.clock)
        self.commit.wake = lambda: world.wake(self._commit_actor)
        self._engine_actor = Actor(f"{self.name} engine", self._engine_turn, process)
        self._bell = Bell(lambda: world.wake(self._engine_actor))
        self.store = FaultyStore(self, self.sim.store_of(self, "engine"))
        api = ApiThread()
        api_actor = Actor(f"{self.name} api", api.turn, process)
        api.wake = lambda: world.wake(api_actor)
        self._asker = Asker(FaultyStore(self, self.sim.store_of(self, "api")), api)
        self._safe = SafeWatch()
        self._build_accept()
        self._build_engine()

    def _build_accept(self) -> None:
        budget = BodyBudget(JOURNAL, disk=self.disk, body_max=1 << 20)
        turn = Turn(self.commit)

        def submit(append: Append) -> None:
            self.sim.submitted(self, append)
            turn.submit(append)

        self.acceptor = Acceptor(
            minter=Minter(self.sysid),
            submit=submit,
            refusal=self.writer.refusal,
            new_body=lambda: Body(budget),
            body_max=1 << 20,
            clock=self.clock,
            node=self,  # type: ignore[arg-type]
            keys=PendingKeys(),
        )
        self.jobs_acceptor = JobsAcceptor(self.acceptor)
        self.ingester = Ingester(
            self.writer,
            self.reader,
            self.store,  # type: ignore[arg-type]
            retain_ms=RETAIN_MS,
            forget_keys=lambda headers: self._call(self.acceptor.ingested, headers),
        )

    def _build_engine(self) -> None:
        store: Any = self.store
        chance = SimChance(self.chance)
        scheduler = Scheduler({"exec": SLOTS})
        self.flights = Flights({"exec": SimRunner(self)}, self.clock, self._landed)
        self.dispatcher = Dispatcher(
            store,
            scheduler,
            self.clock,
            self.sysid,
            lambda flights: self._call(self.flights.start, flights),
            lambda flights: self._call(self.flights.kill, flights),
        )
        self.engine = Engine(
            store=store,
            clock=self.clock,
            chance=chance,
            ingester=self.ingester,
            scheduler=scheduler,
            dispatcher=self.dispatcher,
            finisher=Finisher(store, self.sysid, chance, self._add_children),
            janitor=Janitor(
                store,
                self.sysid,
                self.clock.wall_ms(),
                dict,
                clock=self.clock,
                ok_ms=OK_MS,
                failed_ms=FAILED_MS,
                bytes_max=1 << 40,
                former=self.former,
                forgotten=lambda sysid: self._call(self._forget_boot, sysid),
            ),
            log=EventLog(self.sim.log, self.clock, "error"),
            moved=lambda ids: None,
            safe=lambda position: self._call(self._on_safe, position),
            alarm=self._bell,
        )
        self._keep_former([*self.former, self.sysid])

    def _restore(self) -> None:
        with suppress(SlimqError):
            self.ingester.start()
        try:
            restore_keys(self.acceptor, self.reader, self.ingester.position)
        except JournalFailed:
            self.world.kill(self.process)
            raise Crashed from None

    def quit(self) -> None:
        """Drain and end, as a node does that is told to."""
        if self.up and not self.quitting:
            self.world.note(f"{self.name} quits")
            self.hit("drain")
            self.quitting = True
            self.engine.drain()
            end = self.world.now + GRACE_MS
            self._quit_actor = Actor(
                f"{self.name} quits", lambda: self._quit_turn(end), self.process
            )
            self.world.wake(self._quit_actor)

    def _quit_turn(self, end: int) -> int | None:
        if not self.engine.holds.is_set() or self._engine_actor.busy:
            return 50
        if self.dispatcher.flights and self.flights_in_air:
            if self.world.now >= end:
                self._call(self.flights.kill_all)
            return 100
        self.engine.end()
        self._engine_actor.due = None
        self._engine_actor.busy = True
        self.engine.run()
        self.commit.close()
        if self._commit_actor.busy:
            self.world.wait(60_000, lambda: not self._commit_actor.busy)
        self._commit_actor.due = None
        self.commit.run()
        self.loop.call_soon(lambda: None)
        with suppress(SlimqError):
            self.store.leave(self.sysid)
            if self.engine.holds_no_lease:
                self._keep_former([each for each in self.former if each != self.sysid])
        self.writer.close()
        self.world.kill(self.process)
        raise Crashed

    @property
    def flights_in_air(self) -> bool:
        return any(
            flight.task is None or not flight.task.done() for flight in self.dispatcher.flights
        )

    # The threads.

    def _engine_turn(self) -> int:
        self._bell.clear()
        try:
            wait_s = self.engine.turn()
        except SysidTaken:
            self.crash("sysid taken")
            raise Crashed from None
        return max(1, math.ceil(wait_s * 1000))

    def _commit_turn(self) -> int:
        self.commit.turn(0)
        return max(1, math.ceil(self.commit.patience_s() * 1000))

    def _watch(self) -> None:
        self.flights.watch()
        self.loop.call_later(WATCH_S, self._watch)

    # Between them, as in `slimq.node`.

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def _landed(self, flight: Flight) -> None:
        self.sim.landed(self, flight)
        self.engine.landed(flight)

    def _deliver(self, group: list[Append]) -> None:
        self.sim.delivered(self, group)
        self._call(self._acknowledge, group)
        self.engine.accepted()

    def _acknowledge(self, group: list[Append]) -> None:
        for append in group:
            if append.done is not None:
                append.done(append)

    def _add_children(self, lines: list[JobLine]) -> None:
        body = Body.of(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
        header = Header(lines[0].id, len(lines), self.clock.wall_ms(), kind="jobs")
        written: list[Append] = []
        append = Append(header, body, done=written.append)
        self.commit.submit(append)
        if not self.world.wait(CHILDREN_TIMEOUT_MS, lambda: bool(written)):
            raise JournalFailed("the journal did not take the children in time")
        if append.error is not None:
            raise append.error

    def _on_safe(self, position: Position) -> None:
        if self._safe.reach(position):
            self.engine.want_safe = True

    def _forget_boot(self, sysid: str) -> None:
        if sysid in self.former:
            self._keep_former([each for each in self.former if each != sysid])

    def _keep_former(self, former: list[str]) -> None:
        """The file is replaced as a whole, or not at all when the disk is full."""
        if self.disk.free_now() > 0:
            self.former = former

    # What accepting asks of its node.

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        return await self._asker.ask(question)

    async def stored(self, segment: int, offset: int) -> None:
        self.engine.want_safe = True
        self.engine.wake()
        try:
            await self._safe.reached(Position(segment, offset), STORED_TIMEOUT_S)
        except TimeoutError as error:
            raise DurabilityUnmet("not stored in time") from error

    def look_again(self) -> None:
        """Something was changed by hand."""
        self.engine.look_again = True
        self.engine.wake()
