"""``slimq start``, ``stop`` and ``quit``: the engine of a node resumed, suspended, drained."""

from __future__ import annotations

import click

from slimq.cli.caller import Caller
from slimq.cli.options import node_option
from slimq.cli.output import json_option, print_json, print_next


def _control(verb: str, node: Caller, as_json: bool, following: str) -> None:
    answer = node.post(f"/{verb}")
    if as_json:
        print_json(answer)
        return
    click.echo(f"{node.url} is {answer['state']}")
    print_next(following)


@click.command(name="start")
@node_option
@json_option
def start(node: Caller, as_json: bool) -> None:
    """Start jobs again after a stop."""
    _control("start", node, as_json, "slimq top")


@click.command(name="stop")
@node_option
@json_option
def stop(node: Caller, as_json: bool) -> None:
    """Start no more jobs; accepting goes on, also over a restart, until `slimq start`."""
    _control("stop", node, as_json, "slimq start")


@click.command(name="quit")
@node_option
@json_option
def quit_(node: Caller, as_json: bool) -> None:
    """Let what runs end, then close and exit."""
    _control("quit", node, as_json, "slimq serve")
