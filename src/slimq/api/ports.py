"""What the HTTP surface needs of the node it belongs to. `node.py` fits these together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from slimq.core.handler import Handler
from slimq.core.job import Ran
from slimq.journal.record import Header
from slimq.store.base import ControlStore

T = TypeVar("T")


class NodePort(Protocol):
    """The node as its HTTP surface sees it. Called on the event loop only."""

    sysid: str

    @property
    def stopped(self) -> bool:
        """Whether the engine is suspended. Accepting goes on all the same."""

    @property
    def quitting(self) -> bool: ...

    async def start(self) -> None:
        """Resume the engine. Survives a restart. Raises DiskFull, FolderUnusable."""

    async def stop(self) -> None:
        """Suspend the engine: what runs ends, nothing new starts. Survives a restart. Raises
        DiskFull, FolderUnusable."""

    def quit(self) -> None:
        """Begin to drain and exit; returns at once."""

    def wake(self) -> None:
        """Handlers, policies or jobs were changed through the API: look again now."""

    def status(self) -> dict[str, Any]:
        """Return facts about this node for `/status`: engine, journal, runners, last error
        of the store. Cheap, never blocks, works while the store is down."""

    async def pending(self, id: str) -> Header | None:
        """Return the record of a job that is accepted but not yet in the store. What has to
        be read for that is read off the loop."""

    def check_handler(self, handler: Handler) -> None:
        """Raise BadHandler when no runner can ever run it. May block: call it in `ask`."""

    async def try_out(self, handler: Handler) -> None:
        """Load a function once; raise BadHandler, with file, line and reason, when it cannot
        be."""

    async def invoke(self, type: str, handler: Handler, lines: list[bytes]) -> Ran:
        """Run a handler once, as it would run jobs of `type` with these data. Raises BadHandler
        when this node cannot."""

    def progress(self, id: str) -> tuple[int, int] | None:
        """Return how far a job that runs here said it is: so much of so much (0: unknown)."""

    async def ask(self, question: Callable[[ControlStore], T]) -> T:
        """Run `question` with the API's own store connection, off the loop. Raises what
        it raises; StoreUnavailable while the store cannot be used."""

    async def stored(self, segment: int, offset: int) -> None:
        """Wait until the journal is ingested up to there and the store survives a power
        cut. Raises DurabilityUnmet when that takes too long."""

    def watch(self, id: str) -> asyncio.Future[None]:
        """Return a future that is done when this node moves the job. Cancel it after use."""
