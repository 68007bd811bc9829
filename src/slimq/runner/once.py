"""A try of a handler: some jobs run as the engine would run them, and nobody keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from slimq.core.handler import Handler
from slimq.core.job import Batch, Job, Ran
from slimq.core.limits import OUTPUT_TAIL_MAX
from slimq.runner.split import Run, run_split


async def run_once(
    run: Run, type_: str, handler: Handler, jobs: Sequence[tuple[str, bytes]], now: int
) -> Ran:
    """Run a handler with jobs (id, data), one batch after the other, each of at most as many as
    it takes; return what became of all."""
    size = handler.options.batch_size
    whole = Ran([], [])
    for start in range(0, len(jobs), size):
        part = [Job(id_, 1, 0, 0, now, data) for id_, data in jobs[start : start + size]]
        ran = await run_split(run, Batch(type_, handler, part))
        whole.results += ran.results
        whole.children += ran.children or [[] for _ in part]
        whole.output = (whole.output + ran.output)[-OUTPUT_TAIL_MAX:]
    return whole
