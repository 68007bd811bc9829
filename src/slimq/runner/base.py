"""Stage 7, run: batches meet handlers.

The contract that every runner keeps. One conformance suite runs against all of them.
"""

from __future__ import annotations

from typing import Protocol

from slimq.core.handler import Handler
from slimq.core.job import Batch, Ran


class Runner(Protocol):
    """Runs batches of some langs, on the event loop of the process.

    `run` never raises for what a handler does: a handler that cannot be reached, dies,
    hangs or answers garbage gives results that say so (ERROR), for the jobs concerned.
    Cancelling the task that awaits `run` stops the handler: the process group is killed,
    the request aborted, and nothing of it is left when the task has ended.
    """

    def check(self, handler: Handler) -> None:
        """Raise BadHandler, naming the field, when a handler can never run here. May
        block (it resolves names): not for the loop."""

    async def run(self, batch: Batch) -> Ran: ...

    async def close(self) -> None:
        """Let go of connections and helpers. No run is in flight."""
