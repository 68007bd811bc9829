"""``slimq fn tail``: results and logs of the runs of a jobtype, as they end.

It asks for the newest jobs of the jobtype again and again, and for those of which a run has ended
since. So runs of other nodes are seen, too, and nothing has to be kept for it anywhere.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from operator import itemgetter
from typing import Any

import click

from slimq.cli.caller import Caller, part
from slimq.cli.dev_screen import COLOURS, TEXT_MAX, log_lines, print_entry
from slimq.cli.options import node_option
from slimq.cli.output import json_option
from slimq.core.lifecycle import State
from slimq.core.status import outcome_of

_INTERVAL_S = 0.5
_NEWEST = 200  # jobs that are looked at: it is for one who tries a function, and no log
_UNDER_WAY = (State.RUNNING, State.ABANDONED)

Members = dict[str, Any]


@click.command(name="tail")
@click.argument("jobtype")
@click.option("--client", help="Jobs of this client.")
@click.option("--count", type=click.IntRange(1), help="End after so many runs.")
@node_option
@json_option
def tail(jobtype: str, client: str | None, count: int | None, node: Caller, as_json: bool) -> None:
    """Show the results and logs of runs that end from now on, on any node, until Ctrl-C.

    Those of the newest 200 jobs of the jobtype. With --json there is a line for each run.
    """
    runs = Runs(node, {"jobtype": jobtype, "client": client, "limit": _NEWEST})
    seen = 0
    while count is None or seen < count:
        time.sleep(_INTERVAL_S)
        found = runs.look()[: None if count is None else count - seen]
        seen += len(found)
        if as_json:
            for run in found:
                click.echo(json.dumps(run))
        else:
            _show(jobtype, found)


class Runs:
    """Finds the runs that ended since the last look."""

    def __init__(self, node: Caller, query: Members) -> None:
        self._node = node
        self._query = query
        self._ended = _attempts_ended(self._jobs())

    def look(self) -> list[Members]:
        """Return the runs in the order of their ends, each with `id` and `type` of its job."""
        jobs = self._jobs()
        before, self._ended = self._ended, _attempts_ended(jobs)
        found = [
            {"id": job["id"], "type": job["type"], **run}
            for job in jobs
            if self._ended[job["id"]] > before.get(job["id"], 0)
            for run in self._node.get(f"/jobs/{part(job['id'])}")["runs"]
            if before.get(job["id"], 0) < run["attempt"] <= self._ended[job["id"]]
        ]
        return sorted(found, key=itemgetter("ended_at", "id"))

    def _jobs(self) -> list[Members]:
        jobs: list[Members] = self._node.get("/jobs", self._query)["jobs"]
        return jobs


def _attempts_ended(jobs: list[Members]) -> dict[str, int]:
    """Return the last attempt of each job that is not under way any more."""
    return {job["id"]: job["attempt"] - (job["state"] in _UNDER_WAY) for job in jobs}


def _show(jobtype: str, runs: list[Members]) -> None:
    last = None
    for run in runs:
        batch = (run["node"], run["started_at"], run["ended_at"])
        if batch != last:  # its jobs have one log
            for line in log_lines(_bytes(run, "output")):
                print_entry(jobtype, "log", line, None)
        last = batch
        again = f" (attempt {run['attempt']})" if run["attempt"] > 1 else ""
        text = (run["error"] or _bytes(run, "result").decode("utf-8", "replace"))[:TEXT_MAX]
        colour = COLOURS[outcome_of(run["status"])]
        print_entry(jobtype, str(run["status"]), f"{run['id']}{again}  {text}", colour)


def _bytes(run: Members, name: str) -> bytes:
    if f"{name}_base64" in run:
        return b64decode(run[f"{name}_base64"])
    return str(run[name]).encode()
