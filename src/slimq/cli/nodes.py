"""``slimq nodes``: who works on the store."""

from __future__ import annotations

from typing import Any

import click

from slimq.cli.caller import Caller
from slimq.cli.options import node_option
from slimq.cli.output import (
    duration_text,
    json_option,
    print_json,
    print_next,
    print_table,
    printable,
    size_text,
)

COLUMNS = ("node", "state", "roles", "seen", "behind", "skew ms", "version", "host", "address")


@click.group(name="nodes")
def command() -> None:
    """Look at the nodes that share the store."""


@command.command(name="ls")
@node_option
@json_option
def list_(node: Caller, as_json: bool) -> None:
    """List the nodes, the longest running first, and what to do about silent ones.

    "behind" is what the journal of the node holds and the store does not yet, "skew" how
    far its clock is ahead of the store's. Both are as of when the node was last seen.
    """
    nodes = node.get("/nodes")["nodes"]
    if as_json:
        print_json({"nodes": nodes})
        return
    print_table(COLUMNS, [_row(each) for each in nodes])
    print_next(*[step for each in nodes for step in _steps(each)])


def _row(node: dict[str, Any]) -> list[Any]:
    behind = node["journal_pending_bytes"]
    return [
        node["sysid"],
        node["state"],
        _roles(node),
        f"{duration_text(node['silent_ms'])} ago",
        None if behind is None else size_text(behind),
        node["clock_skew_ms"],
        node["version"],
        node["host"],
        node["url"],
    ]


def _roles(node: dict[str, Any]) -> str | None:
    """A worker that was left over has none: it brings its journal into the store."""
    roles = node["roles"]
    return roles if roles is None else ",".join(roles) or "ingest"


def _steps(node: dict[str, Any]) -> list[str]:
    """Return what one would do about a node."""
    place = printable(f"{node['host'] or 'its machine'} (data folder {node['data'] or 'unknown'})")
    if node["state"] == "silent":
        url = printable(node["url"] or "its address")
        return [f"{node['sysid']} is silent: slimq status --url {url}, or slimq doctor on {place}"]
    if node["state"] == "dead":
        waiting = node["journal_pending_bytes"]
        held = f"; its journal holds {size_text(waiting)} that only it can bring" if waiting else ""
        return [f"{node['sysid']} is dead, others run its jobs: start it again on {place}{held}"]
    return []
