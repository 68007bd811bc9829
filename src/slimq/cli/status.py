"""``slimq status``: how the node and its store are."""

from __future__ import annotations

from typing import Any

import click

from slimq.cli.caller import Caller
from slimq.cli.options import node_option
from slimq.cli.output import (
    duration_text,
    json_option,
    print_json,
    print_members,
    print_next,
    print_table,
    size_text,
)
from slimq.core.jobtype import split_type


@click.command(name="status")
@node_option
@json_option
def command(node: Caller, as_json: bool) -> None:
    """Show how the node and its store are."""
    status = node.get("/status")
    if as_json:
        print_json(status)
        return
    print_members(members(status))
    nodes = status.get("nodes", [])
    if len(nodes) > 1:
        click.echo()
        rows = [(each["sysid"], each["started_at"], each["seen_at"]) for each in nodes]
        print_table(("node", "started", "seen"), rows)
    _say_next(status)


def members(status: dict[str, Any]) -> dict[str, Any]:
    """Return what people want to see of `GET /status`."""
    jobs = status.get("jobs", {})
    journal, waited_ms = part(status, "journal"), part(status, "engine").get("oldest_waiting_ms")
    return {
        "state": status["state"],
        "version": status["version"],
        "node": status["sysid"],
        "waiting": jobs.get("waiting"),
        "running": jobs.get("running"),
        "oldest wait": None if waited_ms is None else duration_text(waited_ms),
        "journal behind": size_text(journal.get("pending_bytes") or 0),
        "journal": problem(status, "journal") or "ok",
        "store": problem(status, "store") or "ok",
        "no handler": ", ".join(status.get("types_without_handler", [])) or None,
    }


def part(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the node itself says about one of its parts."""
    facts = status.get("node", {}).get(name)
    return facts if isinstance(facts, dict) else {}


def problem(status: dict[str, Any], name: str) -> str | None:
    """Return what is wrong with the store or the journal now, in words."""
    for facts in (part(status, name), status.get(name) or {}):
        if isinstance(facts.get("error"), str):
            return str(facts["error"])
    return None


def _say_next(status: dict[str, Any]) -> None:
    unserved = status.get("types_without_handler", [])
    if problem(status, "store") or problem(status, "journal"):
        print_next("slimq doctor, on the machine of the node")
    elif status["state"] == "stopped":
        print_next("slimq start")
    elif unserved:
        print_next(f"slimq fn put {split_type(unserved[0])[1]} ...")
