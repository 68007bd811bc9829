"""``slimq top``: the node at work, once a second."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import click

from slimq.cli import status as status_view
from slimq.cli.caller import Caller
from slimq.cli.options import node_option
from slimq.cli.output import (
    duration_text,
    json_option,
    print_json,
    printable,
    size_text,
    table,
)
from slimq.cli.types import COLUMNS, row
from slimq.core.limits import LIST_MAX
from slimq.system.clock import Clock, SystemClock

INTERVAL_S = 1.0
_TYPES_SHOWN = 10
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


class Sample(NamedTuple):
    """What the node said at one moment. `types` are those of the first page."""

    at_ms: int
    status: dict[str, Any]
    types: list[dict[str, Any]]

    @property
    def totals(self) -> tuple[int, int, int]:
        """How many jobs were ever accepted, done OK, and ended otherwise by this node."""
        counters = status_view.part(self.status, "counters")
        finished = counters.get("finished") or {}
        failed = finished.get("failed", 0) + finished.get("error", 0)
        return counters.get("accepted", 0), finished.get("ok", 0), failed


@click.command(name="top")
@click.option("--once", is_flag=True, help="Measure for a second, print, and end.")
@node_option
@json_option
def command(once: bool, node: Caller, as_json: bool) -> None:
    """Show rates, what waits and runs, and the busiest types, each second until Ctrl-C.

    Rates are of this node, counts of the whole store.
    """
    clock = SystemClock()
    before = sample(node, clock)
    while True:
        time.sleep(INTERVAL_S)
        now = sample(node, clock)
        _show(before, now, once, as_json)
        if once:
            return
        before = now


def sample(node: Caller, clock: Clock) -> Sample:
    status = node.get("/status")
    store_is_up = status_view.problem(status, "store") is None
    types = node.get("/types", {"limit": LIST_MAX})["types"] if store_is_up else []
    return Sample(clock.boot_ms(), status, types)


def _show(before: Sample, now: Sample, once: bool, as_json: bool) -> None:
    if as_json:
        print_json(figures(before, now))
        return
    live = sys.stdout.isatty() and not once
    click.echo((_HOME_AND_CLEAR if live else "") + "\n".join(screen(before, now)))


def figures(before: Sample, now: Sample) -> dict[str, Any]:
    """Return what is shown, for programs. Rates are a second, times ms, sizes bytes."""
    seconds = max(now.at_ms - before.at_ms, 1) / 1000
    rates = [
        round((new - old) / seconds, 1) for old, new in zip(before.totals, now.totals, strict=True)
    ]
    jobs = now.status.get("jobs", {})
    journal = status_view.part(now.status, "journal")
    return {
        "state": now.status["state"],
        **dict(zip(("accepted_rate", "ok_rate", "failed_rate"), rates, strict=True)),
        "waiting": jobs.get("waiting"),
        "running": jobs.get("running"),
        "oldest_wait_ms": _oldest_wait_ms(now),
        "journal_pending_bytes": journal.get("pending_bytes") or 0,
        "store_error": status_view.problem(now.status, "store"),
        "journal_error": status_view.problem(now.status, "journal"),
        "types": busiest(now.types),
    }


def _oldest_wait_ms(now: Sample) -> int:
    """The node knows the types that it has looked at, the first page those it shows."""
    waits: list[int] = [each["oldest_wait_ms"] for each in now.types]
    return max([status_view.part(now.status, "engine").get("oldest_waiting_ms") or 0, *waits])


def busiest(types: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ranked = sorted(types, key=lambda each: (-each["waiting"] - each["running"], each["type"]))
    return ranked[:_TYPES_SHOWN]


def screen(before: Sample, now: Sample) -> list[str]:
    """Return the lines of the screen."""
    facts = figures(before, now)
    lines = [
        f"slimq {now.status['version']}  {facts['state']}  node {now.status['sysid']}",
        "",
        f"accept {facts['accepted_rate']:,.0f}/s   done {facts['ok_rate']:,.0f}/s   "
        f"failed {facts['failed_rate']:,.0f}/s",
        f"waiting {_count(facts['waiting'])}   running {_count(facts['running'])}   "
        f"oldest wait {duration_text(facts['oldest_wait_ms'])}   "
        f"journal behind {size_text(facts['journal_pending_bytes'])}",
    ]
    errors = {name: facts[f"{name}_error"] for name in ("store", "journal")}
    lines += [f"{name}: {printable(error)}" for name, error in errors.items() if error]
    if facts["types"]:
        lines += ["", *table(COLUMNS, map(row, facts["types"]))]
    return lines


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
