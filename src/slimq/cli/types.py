"""``slimq types``: what waits and runs, paused and limited by type."""

from __future__ import annotations

from typing import Any

import click

from slimq.cli.caller import Caller, part
from slimq.cli.options import (
    client_option,
    every_client_option,
    node_option,
    page_option,
    same_client,
)
from slimq.cli.output import (
    cell,
    duration_text,
    json_option,
    print_json,
    print_members,
    print_next,
    print_table,
)

COLUMNS = ("type", "waiting", "running", "ok", "failed", "error", "oldest wait", "handler", "state")
_DIGITS_MAX = 18  # beyond all bounds; Python reads no number of thousands of digits
UNSET = "none"


@click.group(name="types")
def command() -> None:
    """Look at types (client/jobtype), pause them, set their limits."""


@command.command(name="ls")
@click.option("--client", help="Types of this client.")
@click.option("--jobtype", help="Types of this jobtype.")
@click.option("--after", metavar="TYPE", help="Types above this one: the next page.")
@page_option
@node_option
@json_option
def list_(node: Caller, as_json: bool, **query: Any) -> None:
    """List types, with their jobs counted."""
    page = node.get("/types", query)
    if as_json:
        print_json(page)
        return
    print_table(COLUMNS, [row(type_) for type_ in page["types"]])
    if page["next"]:
        print_next(f"the same with --after {page['next']}")
    for type_ in page["types"]:
        if type_["waiting"] and not type_["handler"]:
            print_next(f"slimq fn put {type_['jobtype']} ... ({type_['type']} has no handler)")
            break


def row(type_: dict[str, Any]) -> list[Any]:
    """Return a type as a row of COLUMNS."""
    counts = [type_[name] for name in ("waiting", "running", "ok", "failed", "error")]
    wait = duration_text(type_["oldest_wait_ms"]) if type_["oldest_wait_ms"] else None
    handler = type_["handler"]
    lang = f"{handler['lang']} v{handler['version']}" if handler else "none"
    return [type_["type"], *counts, wait, lang, "paused" if type_["paused"] else "open"]


@command.command(name="get")
@click.argument("jobtype")
@client_option
@node_option
@json_option
def get(jobtype: str, client: str, node: Caller, as_json: bool) -> None:
    """Show one type: its counts, and what holds for it."""
    type_ = node.get(f"/types/{part(jobtype)}", {"client": client})
    if as_json:
        print_json(type_)
        return
    handler = type_.pop("handler")
    members = {**type_, "oldest_wait_ms": duration_text(type_["oldest_wait_ms"])}
    members["oldest_wait"] = members.pop("oldest_wait_ms")
    members["handler"] = f"{handler['lang']} v{handler['version']}" if handler else "none"
    print_members(members)
    if type_["failed"] or type_["error"]:
        print_next(f"slimq jobs ls --jobtype {jobtype} --client {client} --state done")


def _policy(
    verb: str, jobtype: str, client: str, node: Caller, as_json: bool, following: str
) -> None:
    answer = node.post(f"/types/{part(jobtype)}/{verb}", {"client": client})
    _print_policy(answer, as_json, f"slimq types {following} {jobtype}{same_client(client)}")


def _print_policy(policy: dict[str, Any], as_json: bool, following: str) -> None:
    if as_json:
        print_json(policy)
        return
    print_members(policy)
    print_next(following)


@command.command(name="pause")
@click.argument("jobtype")
@every_client_option
@node_option
@json_option
def pause(jobtype: str, client: str, node: Caller, as_json: bool) -> None:
    """Start no more jobs of a jobtype; accepting goes on."""
    _policy("pause", jobtype, client, node, as_json, "resume")


@command.command(name="resume")
@click.argument("jobtype")
@every_client_option
@node_option
@json_option
def resume(jobtype: str, client: str, node: Caller, as_json: bool) -> None:
    """Start jobs of a jobtype again."""
    _policy("resume", jobtype, client, node, as_json, "get")


@command.command(name="set")
@click.argument("jobtype")
@every_client_option
@click.option("--weight", help=f"Share among the jobtypes of a client; {UNSET} unsets.")
@click.option("--concurrency", help=f"Batches at a time, on all nodes; {UNSET} unsets.")
@click.option("--batch-size", help=f"Jobs in one batch; {UNSET} unsets.")
@node_option
@json_option
def set_(jobtype: str, client: str, node: Caller, as_json: bool, **members: str | None) -> None:
    """Set limits that go before the options of the handler, at once."""
    changes = {name: _number(name, text) for name, text in members.items() if text is not None}
    if not changes:
        raise click.UsageError("say what: --weight, --concurrency or --batch-size")
    answer = node.send_json("PATCH", f"/types/{part(jobtype)}", {"client": client}, changes)
    _print_policy(answer, as_json, f"slimq types get {jobtype}{same_client(client)}")


def _number(name: str, text: str) -> int | None:
    if text == UNSET:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        option = name.replace("_", "-")
        raise click.UsageError(f"--{option}: a whole number, or {UNSET}; found {cell(text)}")
    return int(text)


@command.command(name="purge")
@click.argument("jobtype")
@client_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_option
@json_option
def purge(jobtype: str, client: str, yes: bool, node: Caller, as_json: bool) -> None:
    """Cancel all waiting jobs of a type, with status 499."""
    if not yes:
        click.confirm(f"cancel all waiting jobs of {client}/{jobtype}?", abort=True, err=True)
    answer = node.post(f"/types/{part(jobtype)}/purge", {"client": client})
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['count']:,} cancelled")
    print_next(f"to run them after all: slimq jobs retry --jobtype {jobtype} --client {client}")
