"""What the HTTP surface gets of its node: keeps `api.ports.NodePort`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from slimq import __version__
from slimq.api.waiting import JobWatch, SafeWatch
from slimq.asking import Asker
from slimq.config import Config
from slimq.core.handler import Handler
from slimq.core.job import Ran
from slimq.core.jobid import Minter
from slimq.core.status import Outcome
from slimq.engine import COUNTERS, Engine
from slimq.errors import DurabilityUnmet
from slimq.ingest import Ingester
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, Position
from slimq.journal.writer import JournalWriter
from slimq.node_state import Switch
from slimq.runner.once import run_once
from slimq.runners import FunctionCells, Runners
from slimq.store.base import ControlStore
from slimq.store.opening import News
from slimq.system.clock import Clock

T = TypeVar("T")
STORED_TIMEOUT_S = 10.0


class Parts(NamedTuple):
    """What of a node the surface may use. `quit` begins its end; `accepted` counts its jobs."""

    config: Config
    clock: Clock
    minter: Minter
    writer: JournalWriter
    reader: JournalReader
    ingester: Ingester
    engine: Engine
    runners: Runners
    cells: FunctionCells
    asker: Asker
    news: News | None
    jobs: JobWatch
    safe: SafeWatch
    switch: Switch
    quitting: asyncio.Event
    quit: Callable[[], None]
    accepted: Callable[[], int]


class Port:
    """Used on the event loop only."""

    def __init__(self, sysid: str, started_at: int, parts: Parts) -> None:
        self.sysid = sysid
        self._started_at = started_at
        self._of = parts

    @property
    def stopped(self) -> bool:
        return self._of.switch.stopped

    @property
    def quitting(self) -> bool:
        return self._of.quitting.is_set()

    async def start(self) -> None:
        await self._of.switch.set(False)

    async def stop(self) -> None:
        await self._of.switch.set(True)

    def quit(self) -> None:
        self._of.quit()

    def wake(self) -> None:
        self._of.engine.look_again = True
        self._of.engine.wake()
        if self._of.news is not None:
            self._of.news.tell("control")

    def status(self) -> dict[str, Any]:
        config, writer, ingester = self._of.config, self._of.writer, self._of.ingester
        refusal, engine, level = writer.refusal(), self._of.engine, self._of.cells.level
        facts = engine.facts()
        return {
            "sysid": self.sysid,
            "version": __version__,
            "roles": list(config.server.roles),
            "worker": config.worker,
            "started_at": self._started_at,
            "data": str(config.node_path),
            "store": {
                "path": config.store_shown,
                "error": facts.store_error,
                **({} if facts.store is None else msgspec.structs.asdict(facts.store)),
            },
            "journal": {
                "error": None if refusal is None else refusal.detail,
                "pending_bytes": ingester.pending_bytes(),
                "bytes": writer.size_bytes,
                "segments": len(writer.segments),
                "quarantined": ingester.damaged_pieces,
            },
            "engine": {
                "state": "stopped" if self.stopped else "running",
                "oldest_waiting_ms": facts.oldest_waiting_ms,
                "running_batches": facts.running_batches,
                "running_jobs": facts.running_jobs,
            },
            "sandbox": None if level is None else level._asdict(),
            "functions": self._of.runners.facts(),
            "counters": {
                "accepted": self._of.accepted(),
                "finished": {name: engine.outcomes[name] for name in Outcome},
                **{name: engine.counters[name] for name in COUNTERS},
            },
        }

    async def pending(self, id: str) -> Header | None:
        # In this order: what is not in one of the three any more is in the next.
        if not self._of.writer.unsynced and not self._of.ingester.behind:
            return None
        position = self._of.ingester.position
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._of.reader.find, id, position)

    def check_handler(self, handler: Handler) -> None:
        self._of.runners.runner_of(handler).check(handler)

    async def try_out(self, handler: Handler) -> None:
        await self._of.runners.try_out(handler)

    async def invoke(self, type: str, handler: Handler, lines: list[bytes]) -> Ran:
        runner, now = self._of.runners.runner_of(handler), self._of.clock.wall_ms()
        ids = self._of.minter.block(len(lines), now).ids()
        return await run_once(runner.run, type, handler, list(zip(ids, lines, strict=True)), now)

    def progress(self, id: str) -> tuple[int, int] | None:
        return self._of.runners.progress(id)

    async def ask(self, question: Callable[[ControlStore], T]) -> T:
        return await self._of.asker.ask(question)

    async def stored(self, segment: int, offset: int) -> None:
        self._of.engine.want_safe = True
        self._of.engine.wake()
        try:
            await self._of.safe.reached(Position(segment, offset), STORED_TIMEOUT_S)
        except TimeoutError as error:
            rule = "the store does not take the jobs now; they are in the journal and will run"
            raise DurabilityUnmet(rule, headers={"Retry-After": "5"}) from error

    def watch(self, id: str) -> asyncio.Future[None]:
        return self._of.jobs.watch(id)
