"""What ``slimq dev`` shows: results and logs of runs, as they end."""

from __future__ import annotations

from contextlib import suppress

import click

from slimq.cli.output import printable, printable_lines
from slimq.core.job import Job, Result
from slimq.core.jobtype import split_type
from slimq.core.status import Outcome, outcome_of
from slimq.runner.flight import Flight
from slimq.system.clock import Clock

JOBS_SHOWN = 20  # of one batch; the rest is counted
TEXT_MAX = 200
_LOG_LINES = 40
COLOURS = {
    Outcome.OK: "green",
    Outcome.RETRY: "yellow",
    Outcome.FAILED: "red",
    Outcome.ERROR: "red",
}


class Screen:
    """Writes to standard output, in whole lines, from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def say(self, jobtype: str, text: str, *, is_bad: bool = False) -> None:
        """Show what became of a function."""
        print_entry(jobtype, "-" * 3, printable_lines(text), "red" if is_bad else "cyan")

    def show(self, flight: Flight) -> None:
        """Show a run that ended."""
        batch, ran = flight.batch, flight.ran
        _, jobtype = split_type(batch.type)
        if ran is None:
            print_entry(jobtype, "-" * 3, f"{len(batch.jobs)} jobs were given back", "yellow")
            return
        took_ms = max(0, self._clock.wall_ms() - flight.started_at)
        for line in log_lines(ran.output):
            print_entry(jobtype, "log", line, None)
        for job, result in zip(batch.jobs[:JOBS_SHOWN], ran.results, strict=False):
            print_entry(jobtype, str(result.status), _words(job, result), _colour(result))
        more = ran.results[JOBS_SHOWN:]
        if more:
            well = sum(outcome_of(result.status) is Outcome.OK for result in more)
            print_entry(jobtype, "...", f"and {len(more):,} more, {well:,} of them ok", None)
        if len(batch.jobs) > 1:
            print_entry(jobtype, "...", f"{len(batch.jobs):,} jobs in {took_ms:,} ms", None)


def _words(job: Job, result: Result) -> str:
    again = f" (attempt {job.attempt})" if job.attempt > 1 else ""
    text = result.error or _text(result.text)
    lines = _text(result.text).splitlines() if result.error and b"\n" in result.text else []
    return "\n".join([f"{job.id}{again}  {text[:TEXT_MAX]}", *lines[:_LOG_LINES]])


def _colour(result: Result) -> str:
    return COLOURS[outcome_of(result.status)]


def log_lines(output: bytes) -> list[str]:
    """Return the last lines of a log."""
    return [line for line in _text(output).splitlines() if line.strip()][-_LOG_LINES:]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def print_entry(jobtype: str, mark: str, text: str, colour: str | None) -> None:
    """Print a text beside the jobtype and a mark in a colour, safely for a terminal."""
    first, *rest = printable_lines(text).split("\n")
    lines = [f"{printable(jobtype):12}  {click.style(mark, fg=colour)}  {first}"]
    lines += [f"{'':12}       {line}" for line in rest]
    with suppress(OSError, ValueError):  # a terminal that is gone does not stop the node
        click.echo("\n".join(lines))
