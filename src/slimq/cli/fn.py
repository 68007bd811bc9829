"""``slimq fn``: the handlers, their versions, and the way back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

import click

from slimq.cli.caller import Caller, part
from slimq.cli.functions import deploy, diff, invoke
from slimq.cli.options import (
    every_client_option,
    handler_options,
    node_option,
    page_option,
    read_handler_options,
    same_client,
)
from slimq.cli.output import json_option, print_json, print_members, print_next, print_table
from slimq.cli.tail import tail
from slimq.core.jobtype import EVERY_CLIENT
from slimq.core.language import LANGUAGES

COLUMNS = ("client", "jobtype", "version", "lang", "body", "options", "created")
EXEC_FLAG = "--exec"
_ARGV = "slimq.argv"


class PutCommand(click.Command):
    """All that follows ``--exec`` is the command, word by word: also what looks like an
    option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if EXEC_FLAG in args:
            at = args.index(EXEC_FLAG)
            ctx.meta[_ARGV] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "JOBTYPE", f"[{EXEC_FLAG} CMD...]"]


@click.group(name="fn")
def command() -> None:
    """Put handlers and upload functions, look at them, try them, roll them back."""


for each in (deploy, diff, invoke, tail):
    command.add_command(each)


@command.command(name="put", cls=PutCommand)
@click.argument("jobtype")
@every_client_option
@click.option("--http", "url", metavar="URL", help="Address that jobs are posted to.")
@click.option("--file", type=click.File("r"), help="JSON: {lang, body, options}; - for stdin.")
@handler_options
@node_option
@json_option
@click.pass_context
def put(
    context: click.Context,
    jobtype: str,
    client: str,
    url: str | None,
    file: TextIO | None,
    pairs: tuple[str, ...],
    node: Caller,
    as_json: bool,
) -> None:
    """Set what runs a jobtype, as a new version.

    One of: `--exec CMD...` (must come last: all that follows is the command, and no shell
    reads it), `--http URL`, `--file handler.json`.
    """
    argv: list[str] | None = context.meta.get(_ARGV)
    if sum(given is not None for given in (argv, url, file)) != 1:
        raise click.UsageError("say one of --exec CMD..., --http URL, --file FILE")
    handler = _from_file(file) if file else _handler(argv, url)
    if pairs:
        handler["options"] = {**handler.get("options", {}), **read_handler_options(pairs)}
    answer = node.send_json("PUT", f"/handlers/{part(jobtype)}", {"client": client}, handler)
    if as_json:
        print_json(answer)
        return
    whose = "every client" if client == EVERY_CLIENT else client
    click.echo(f"{jobtype} of {whose} is run by version {answer['version']}")
    for warning in answer.get("warnings", []):
        click.echo(f"warning: {warning}", err=True)
    print_next(f"echo hello | slimq add {jobtype}{same_client(client)}")


def _handler(argv: list[str] | None, url: str | None) -> dict[str, Any]:
    if argv is not None:
        return {"lang": "exec", "body": argv}
    return {"lang": "http", "body": url}


def _from_file(file: TextIO) -> dict[str, Any]:
    try:
        document = json.load(file)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--file: not JSON that can be read: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("options", {}), dict):
        raise click.UsageError('--file: write {"lang": ..., "body": ..., "options": {...}}')
    return document


@command.command(name="ls")
@click.option("--client", help="Handlers of this client; * for those of every client.")
@click.option("--jobtype", help="Handlers of this jobtype.")
@click.option("--after", metavar="CLIENT/JOBTYPE", help="Above this one: the next page.")
@page_option
@node_option
@json_option
def list_(node: Caller, as_json: bool, **query: Any) -> None:
    """List the current handlers."""
    page = node.get("/handlers", query)
    if as_json:
        print_json(page)
        return
    print_table(COLUMNS, [_row(handler) for handler in page["handlers"]])
    if page["next"]:
        print_next(f"the same with --after {page['next']}")
    elif not page["handlers"]:
        print_next("slimq fn put echo --exec sed 's/^/200 /'")


def _row(handler: Mapping[str, Any]) -> list[Any]:
    body, options = handler.get("body"), handler["options"]
    if "files" in handler:
        body = list(handler["files"])
    elif isinstance(body, dict):
        body = list(body)
    elif handler["lang"] in LANGUAGES:
        body = LANGUAGES[handler["lang"]].text
    return [
        handler["client"],
        handler["jobtype"],
        handler["version"],
        handler["lang"],
        " ".join(body) if isinstance(body, list) else body,
        json.dumps(options) if options else None,
        handler["created_at"],
    ]


@command.command(name="get")
@click.argument("jobtype")
@every_client_option
@node_option
@json_option
def get(jobtype: str, client: str, node: Caller, as_json: bool) -> None:
    """Show a handler; with --json as `put --file` reads it."""
    handler = node.get(f"/handlers/{part(jobtype)}", {"client": client})
    if as_json:
        print_json(handler)
        return
    print_members(dict(zip(COLUMNS, _row(handler), strict=True)))
    print_next(f"slimq fn versions {jobtype} --client '{client}'")


@command.command(name="rm")
@click.argument("jobtype")
@every_client_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_option
@json_option
def remove(jobtype: str, client: str, yes: bool, node: Caller, as_json: bool) -> None:
    """Delete a handler with all its versions; its jobs wait for another one."""
    if not yes:
        click.confirm(f"delete all versions of {client}/{jobtype}?", abort=True, err=True)
    answer = node.call("DELETE", f"/handlers/{part(jobtype)}", {"client": client})
    if as_json:
        print_json(answer)
        return
    click.echo(f"{jobtype} has no handler any more; its jobs wait")
    print_next(f"slimq fn put {jobtype}{same_client(client)} ...")


@command.command(name="versions")
@click.argument("jobtype")
@every_client_option
@node_option
@json_option
def versions(jobtype: str, client: str, node: Caller, as_json: bool) -> None:
    """List all versions of a handler, the newest first."""
    answer = node.get(f"/handlers/{part(jobtype)}/versions", {"client": client})
    if as_json:
        print_json(answer)
        return
    rows = [[version["current"], *_row(version)] for version in answer["versions"]]
    print_table(("current", *COLUMNS), rows)
    print_next(f"slimq fn rollback {jobtype} --client '{client}' --version N")


@command.command(name="rollback")
@click.argument("jobtype")
@every_client_option
@click.option("--version", type=int, help="Which; if not given, the one before the current.")
@node_option
@json_option
def rollback(jobtype: str, client: str, version: int | None, node: Caller, as_json: bool) -> None:
    """Make an older version the current one again."""
    path = f"/handlers/{part(jobtype)}/rollback"
    answer = node.post(path, {"client": client, "version": version})
    if as_json:
        print_json(answer)
        return
    click.echo(f"{jobtype} is run by version {answer['version']} again")
    print_next(f"slimq fn versions {jobtype} --client '{client}'")
