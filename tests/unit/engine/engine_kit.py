"""A whole engine without its threads: a real journal, memory store and scheduler, driven
step by step. Runs end when the test says so, with what the test says."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from clock_kit import START_MS, FakeClock
from slimq.core.handler import Handler, parse_options
from slimq.core.job import Batch, Job, Ran, Result
from slimq.core.jobid import Minter
from slimq.core.lines import ChildLine
from slimq.dispatch import Dispatcher
from slimq.engine import Engine
from slimq.errors import JournalFailed, OperatorError, StoreUnavailable
from slimq.finish import Finisher, Summary, at_once
from slimq.ingest import Ingester
from slimq.janitor import Janitor
from slimq.journal.append import Append
from slimq.journal.body import Body
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, JobLine, Position
from slimq.journal.writer import JournalWriter
from slimq.runner.flight import Flight
from slimq.scheduler import Scheduler
from slimq.store.base import JobView
from slimq.store.memory import MemoryStore
from slimq.system.chance import Chance
from slimq.system.disk import SystemDisk
from slimq.system.log import EventLog

DAY_MS = 24 * 3_600_000
NODE, OTHER = "nodeAAAA", "nodeBBBB"
TYPE = "acme/mail"


class CountingChance:
    """Numbers in the middle, and tokens that differ and repeat from run to run."""

    def __init__(self, seed: str) -> None:
        self.count = crc32(seed.encode()) << 24

    def uniform(self) -> float:
        return 0.5

    def token(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


class QuickDisk(SystemDisk):
    """A real disk that does not wait for the platter: no test here cuts the power."""

    def fdatasync(self, file: int) -> None:
        pass

    def fsync(self, file: int) -> None:
        pass

    def fsync_folder(self, folder: int) -> None:
        pass


class WatchedStore:
    """A store that notes the calls of the engine, and fails those that it is told to."""

    def __init__(self, inner: MemoryStore, events: list[str]) -> None:
        self.inner = inner
        self.events = events
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.down = False
        self.safe = True  # what a barrier answers
        self.before: Callable[[str], None] | None = None  # called before each call, by name
        self._failing: dict[str, list[bool]] = {}

    def fail(self, name: str, *, after: int = 0, times: int = 1) -> None:
        """Let `times` calls fail, after so many that work."""
        self._failing[name] = [False] * after + [True] * times

    def heal(self) -> None:
        self.down = False
        self._failing.clear()

    def forget_calls(self) -> None:
        self.calls.clear()
        self.events.clear()

    def called(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Return the arguments of the calls that did not fail."""
        return [(args, kwargs) for call, args, kwargs in self.calls if call == name]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.before is not None:
                self.before(name)
            failing = self._failing.get(name)
            if name != "now" and (self.down or (failing and failing.pop(0))):
                raise StoreUnavailable(f"planted in {name}")
            self.calls.append((name, args, kwargs))
            if name != "now":
                self.events.append(name)
            return self.safe if name == "barrier" else method(*args, **kwargs)

        return call


class Beside:
    """A thread beside the engine that works when the test says so. `begin` does what it was
    given, `end` tells the engine of it, `go_on` is whichever of them comes next. Who waits for
    the result gets it at once."""

    def __init__(self) -> None:
        self._begun: Future[Any] | None = None
        self._asked: _Asked | None = None

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        assert self._asked is None, "one after the other"
        self._asked = _Asked(self)
        self._work = partial(work, *arguments)
        return self._asked

    def forget(self) -> None:
        self._asked = self._begun = None

    def begin(self) -> None:
        if self._begun is None:
            self._begun = at_once(self._work)

    def end(self) -> None:
        self.begin()
        (asked, self._asked), (begun, self._begun) = (self._asked, None), (self._begun, None)
        assert asked is not None
        assert begun is not None
        if (error := begun.exception()) is not None:
            asked.set_exception(error)
        else:
            asked.set_result(begun.result())

    def go_on(self) -> None:
        if self._begun is not None:
            self.end()
        elif self._asked is not None:
            self.begin()


class _Asked(Future[Any]):
    def __init__(self, beside: Beside) -> None:
        super().__init__()
        self._beside = beside

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self._beside.end()
        return super().result(timeout)


class Rig:
    """One node's engine. `events` holds the store's calls, and what was journaled and
    told, in order; `air` the flights that were started and did not end."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: FakeClock | None = None,
        store: Any = None,  # else one in memory
        chance: Chance | None = None,
        sysid: str = NODE,
        former: Sequence[str] = (),
        slots: int = 8,
        segment_bytes: int = 1 << 26,
        retain_ms: int = DAY_MS,
        ok_ms: int = DAY_MS,
        failed_ms: int = DAY_MS,
        bytes_max: int = 1 << 40,
        gather_ms: int = 0,
        submit: Callable[..., Future[Any]] = at_once,
    ) -> None:
        self.folder = folder
        self.clock = clock or FakeClock()
        self.memory = store or MemoryStore(self.clock)
        self.chance = chance or CountingChance(folder.name)
        self.disk = QuickDisk()
        self.events: list[str] = []
        self.store = WatchedStore(self.memory, self.events)
        self.slots = slots
        self.segment_bytes = segment_bytes
        self.retain_ms = retain_ms
        self.purges = {"ok_ms": ok_ms, "failed_ms": failed_ms, "bytes_max": bytes_max}
        self.gather_ms = gather_ms
        self.submit = submit
        self.refuse_children = False
        self.forgotten: list[Header] = []
        self.moved: list[str] = []
        self.safe: list[Position] = []
        self.told: list[str] = []
        self.forgotten_boots: list[str] = []
        self.written = io.StringIO()
        self.log = EventLog(self.written, self.clock)
        self.open_journal()
        self.boot(sysid, former)

    def open_journal(self) -> None:
        self.writer = JournalWriter(
            self.folder,
            disk=self.disk,
            clock=self.clock,
            chance=self.chance,
            segment_bytes=self.segment_bytes,
            reserve_bytes=0,
        )
        self.writer.open()
        self.reader = JournalReader(self.writer)

    def boot(self, sysid: str = NODE, former: Sequence[str] = ()) -> None:
        """Start an engine anew: what a start of the process does. Runs are gone."""
        self.sysid = sysid
        self.minter = Minter(sysid)
        self.air: list[Flight] = []
        self.killed: list[Flight] = []
        self.ingester = self.new_ingester()
        self.scheduler = Scheduler({"exec": self.slots})
        self.dispatcher = Dispatcher(
            self.store, self.scheduler, self.clock, sysid, self.air.extend, self.killed.extend
        )
        self.finisher = Finisher(self.store, sysid, self.chance, self.add_children)
        self.janitor = Janitor(
            self.store,
            sysid,
            self.clock.wall_ms(),
            lambda: {"pid": 1},
            clock=self.clock,
            former=former,
            forgotten=self.forgotten_boots.append,
            **self.purges,
        )
        self.engine = Engine(
            store=self.store,
            clock=self.clock,
            chance=self.chance,
            ingester=self.ingester,
            scheduler=self.scheduler,
            dispatcher=self.dispatcher,
            finisher=self.finisher,
            janitor=self.janitor,
            log=self.log,
            moved=self.moved.extend,
            safe=self.safe.append,
            tell=self.told.append,
            gather_ms=self.gather_ms,
            submit=self.submit,
        )

    def new_ingester(self) -> Ingester:
        return Ingester(
            self.writer,
            self.reader,
            self.store,
            retain_ms=self.retain_ms,
            forget_keys=self._forget_keys,
        )

    def close(self) -> None:
        self.writer.close()

    # What comes in.

    def add(self, *lines: bytes, type: str = TYPE, **fields: Any) -> list[str]:
        """Journal one request of these lines; return the ids of its jobs."""
        ids = self.minter.block(len(lines), self.clock.wall_ms())
        header = Header(ids.first, len(lines), self.clock.wall_ms(), type=type)
        for name, value in fields.items():
            setattr(header, name, value)
        self.journal(header, b"".join(line + b"\n" for line in lines))
        return ids.ids()

    def add_jobs(self, *lines: JobLine, **fields: Any) -> list[str]:
        """Journal jobs that say themselves what they are; return their ids."""
        block = self.minter.block(len(lines), self.clock.wall_ms()).ids()
        header = Header(block[0], len(lines), self.clock.wall_ms(), kind="jobs", **fields)
        self.journal(header, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        return [line.id or id_ for line, id_ in zip(lines, block, strict=True)]

    def journal(self, header: Header, body: bytes) -> None:
        append = Append(header, Body.of(body))
        self.writer.commit([append])
        if append.error is not None:
            raise append.error
        self.events.append("journal")

    def add_children(self, lines: list[JobLine]) -> None:
        if self.refuse_children:
            raise JournalFailed("planted in the journal")
        block = Header(lines[0].id, len(lines), self.clock.wall_ms(), kind="jobs")
        self.journal(block, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def _forget_keys(self, headers: list[Header]) -> None:
        self.events.append("forget_keys")
        self.forgotten += headers

    # What happens.

    def step(self) -> bool:
        return self.engine.step()

    def try_step(self) -> bool:
        """Step as `run` does; return whether it worked."""
        try:
            self.step()
        except OperatorError:
            return False
        return True

    def ingest_all(self) -> None:
        while self.ingester.behind:
            self.ingester.step()

    def launch(self, *lines: bytes, type: str = TYPE, **written: Any) -> list[Flight]:
        """Add jobs and let the engine start them; return their flights."""
        self.add(*lines, type=type)
        if not self.memory.control().handlers:
            self.memory.put_handler(handler(**written))
        before = len(self.air)
        self.step()
        return self.air[before:]

    def land(self, flight: Flight, *results: Result | int, **fields: Any) -> None:
        """End a flight with these results, or one for all of its jobs."""
        made = [Result(r) if isinstance(r, int) else r for r in results]
        if len(made) == 1:
            made *= len(flight.batch.jobs)
        flight.ran = Ran(made, **fields)
        self.air.remove(flight)
        self.engine.landed(flight)

    def finish(self, flights: Sequence[Flight]) -> Summary:
        """Record runs that ended, now."""
        return self.finisher.finish(flights, self.memory.now())

    def down(self, flight: Flight) -> None:
        """End a flight as the loop does when it was killed."""
        self.air.remove(flight)
        self.engine.landed(flight)

    def job(self, id_: str) -> JobView:
        view = self.memory.job(id_)
        assert view is not None, f"{id_} is not in the store"
        return view

    def counts(self, type: str = TYPE) -> tuple[int, int, int, int, int]:
        """Return how many jobs wait, run, and are done as ok, failed and error."""
        view = self.memory.type(type)
        assert view is not None
        return view.waiting, view.running, view.ok, view.failed, view.error

    def segment_files(self) -> list[Path]:
        return sorted(self.folder.glob("*.journal"))


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(name: str = "journal", **wants: Any) -> Rig:
        made.append(Rig(tmp_path / name, **wants))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()


def handler(jobtype: str = "mail", client: str = "acme", **written: Any) -> Handler:
    return Handler(
        client=client,
        jobtype=jobtype,
        version=0,
        lang="exec",
        body=["cat", "-"],
        options=parse_options("exec", written),
        written=written,
    )


def child(jobtype: str, data: bytes) -> ChildLine:
    return ChildLine(jobtype, data)


def jobs_of(count: int, **fields: Any) -> list[Job]:
    made = [Job(f"0abcdef-nodenode-{n:04}", 1, 0, 0, START_MS, b"%d" % n) for n in range(count)]
    return [msgspec.structs.replace(job, **fields) for job in made]


def batch_of(count: int, **fields: Any) -> Batch:
    return Batch(TYPE, handler(), jobs_of(count, **fields))


def ids_of(flight: Flight) -> list[str]:
    return [job.id for job in flight.batch.jobs]
