"""A batch that died is run again in parts, until the guilty jobs are alone: log2 n more runs
for one of them, or two where it is known which job was under way. Innocents lose no failure.

When the command took all results with it, some of its jobs are tried alone first. Do all of
these die too, the handler is broken and not a job: what they got, the others get as well,
instead of two runs for each of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from slimq.core import status as statuses
from slimq.core.job import Batch, Ran, Result
from slimq.core.limits import OUTPUT_TAIL_MAX, SPLIT_PROBES
from slimq.core.status import Outcome, outcome_of
from slimq.runner.answer import bounded

Run = Callable[[Batch], Awaitable[Ran]]


async def run_split(run: Run, batch: Batch) -> Ran:
    """Run a batch, and those of its jobs again that may be innocent of its death."""
    ran = await run(batch)
    if not ran.suspects:
        return ran
    ran.children = ran.children or [[] for _ in batch.jobs]
    suspects, guilty = ran.suspects, ran.guilty
    if len(suspects) == len(batch.jobs) > 2 * SPLIT_PROBES:
        probes = [place * len(suspects) // SPLIT_PROBES for place in range(SPLIT_PROBES)]
        suspects = [index for index in suspects if index not in probes]
        guilty = None if guilty in probes else guilty
        if await _all_die(run, batch, ran, probes):
            _give_all(ran, suspects, [ran.results[index] for index in probes])
            return ran
    await _split(run, batch, ran, suspects, guilty)
    return ran


async def _all_die(run: Run, batch: Batch, ran: Ran, probes: list[int]) -> bool:
    """Run jobs alone; return whether the command died with each, giving no verdict."""
    verdicts = 0
    for index in probes:
        again = await _run_part(run, batch, ran, [index])
        failed = outcome_of(again.results[0].status) is Outcome.FAILED
        verdicts += failed or not again.died
    return verdicts == 0


def _give_all(ran: Ran, rest: list[int], probes: list[Result]) -> None:
    """Give jobs that were never alone what those got that were: RETRY when all of these did,
    else the ERROR of the whole batch, which crashed none of them."""
    not_now = all(outcome_of(probe.status) is Outcome.RETRY for probe in probes)
    for index in rest:
        was = ran.results[index]
        error = bounded(f"{was.error} (as did {len(probes)} jobs of this batch alone)")
        ran.results[index] = Result(statuses.RETRY_LATER if not_now else was.status, error=error)


async def _split(run: Run, batch: Batch, ran: Ran, suspects: list[int], guilty: int | None) -> None:
    """Run suspects in parts, and the suspects of a part that dies in smaller ones."""
    rest = [(suspects, guilty)]
    while rest:
        for part in _parts(*rest.pop()):
            again = await _run_part(run, batch, ran, part)
            if again.suspects:
                known = None if again.guilty is None else part[again.guilty]
                rest.append(([part[place] for place in again.suspects], known))


def _parts(suspects: list[int], guilty: int | None) -> list[list[int]]:
    """Return the guilty one alone and the others, or two halves where it is not known."""
    if guilty is None:
        middle = (len(suspects) + 1) // 2
        parts = [suspects[:middle], suspects[middle:]]
    else:
        parts = [[guilty], [index for index in suspects if index != guilty]]
    return [part for part in parts if part]


async def _run_part(run: Run, batch: Batch, ran: Ran, part: list[int]) -> Ran:
    """Run the jobs at these places of a batch again, and put what became of them in `ran`."""
    again = await run(Batch(batch.type, batch.handler, [batch.jobs[index] for index in part]))
    for place, index in enumerate(part):
        ran.results[index] = again.results[place]
        if again.children:
            ran.children[index] = again.children[place]
    ran.output = (ran.output + again.output)[-OUTPUT_TAIL_MAX:]
    return again
