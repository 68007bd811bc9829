"""``slimq fn deploy``, ``diff`` and ``invoke``: upload a function, compare versions, try one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import click

from slimq.cli.caller import Caller, part
from slimq.cli.options import (
    client_option,
    every_client_option,
    handler_options,
    node_option,
    read_handler_options,
    same_client,
)
from slimq.cli.output import (
    duration_text,
    json_option,
    print_json,
    print_next,
    print_table,
    printable,
    printable_lines,
)
from slimq.cli.source import compare, read_source
from slimq.cli.uploading import upload
from slimq.core.bundle import read_body, to_body
from slimq.core.entry import entry_of, lang_of
from slimq.core.jobtype import EVERY_CLIENT
from slimq.core.language import FUNCTIONS
from slimq.core.limits import JSON_BODY_MAX


@click.command(name="deploy")
@click.argument("jobtype")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--lang", type=click.Choice(FUNCTIONS), help="If its files do not tell it right.")
@every_client_option
@handler_options
@node_option
@json_option
def deploy(
    jobtype: str,
    source: Path,
    lang: str | None,
    client: str,
    pairs: tuple[str, ...],
    node: Caller,
    as_json: bool,
) -> None:
    """Upload a function, as a new version: SOURCE is a file, a folder or a zip.

    Its files tell the language: .py is python, .js is node, .ts is deno, .wasm is wasm.
    A version that cannot be loaded is refused, and the one before it goes on.
    """
    files, options = read_source(source), read_handler_options(pairs)
    lang = lang or lang_of(files)
    entry_of(lang, read_body(lang, to_body(files)), str(options.get("handler", "")))
    document = {"lang": lang, "body": to_body(files), "options": options}
    answer = upload(node, jobtype, client, document, _tell)
    if as_json:
        print_json(answer)
        return
    whose = "every client" if client == EVERY_CLIENT else client
    size = sum(answer["files"].values())
    content = f"{len(answer['files'])} files, {size:,} bytes"
    click.echo(f"{jobtype} of {whose} is run by version {answer['version']} ({lang}, {content})")
    print_next(
        f"echo hello | slimq fn invoke {jobtype}{same_client(client)}",
        f"echo hello | slimq add {jobtype}{same_client(client)}",
    )


def _tell(line: str) -> None:
    click.echo(printable(line), err=True)


@click.command(name="diff")
@click.argument("jobtype")
@every_client_option
@click.option("--from", "old", type=int, help="Version; if not given, the one before the other.")
@click.option("--to", "new", type=int, help="Version; if not given, the current one.")
@node_option
@json_option
def diff(
    jobtype: str, client: str, old: int | None, new: int | None, node: Caller, as_json: bool
) -> None:
    """Show what differs between two versions of a handler: its source and its options."""
    path, query = f"/handlers/{part(jobtype)}", {"client": client}
    later = node.get(path, {**query, "version": new})
    if old is None:
        versions = node.get(f"{path}/versions", query)["versions"]
        old = max((v["version"] for v in versions if v["version"] < later["version"]), default=None)
    if old is None:
        raise click.UsageError(f"version {later['version']} is the first: say --from")
    text = compare(node.get(path, {**query, "version": old}), later)
    if as_json:
        print_json({"from": old, "to": later["version"], "diff": text})
    elif text:
        click.echo(printable_lines(text))
    else:
        click.echo(f"versions {old} and {later['version']} are the same")


@click.command(name="invoke")
@click.argument("jobtype")
@click.argument("lines", type=click.File("rb"), default="-")
@client_option
@click.option("--version", type=int, help="Which; if not given, the current one.")
@node_option
@json_option
def invoke(
    jobtype: str, lines: BinaryIO, client: str, version: int | None, node: Caller, as_json: bool
) -> int:
    """Run a handler once with the lines of a file or of standard input, and show what comes of
    each. Nothing is stored. Exits with 1 when a job did not end OK.
    """
    body = lines.read(JSON_BODY_MAX + 1)
    path, query = f"/handlers/{part(jobtype)}/invoke", {"client": client, "version": version}
    answer = node.call("POST", path, query, body, {"Content-Type": "text/plain"})
    if as_json:
        print_json(answer)
    else:
        _show(answer)
    return int(any(result["outcome"] != "ok" for result in answer["results"]))


def _show(answer: Any) -> None:
    rows = [
        [number, result["status"], result["outcome"], _said(result), len(result["children"])]
        for number, result in enumerate(answer["results"], 1)
    ]
    print_table(("line", "status", "outcome", "result", "children"), rows)
    for number, result in enumerate(answer["results"], 1):
        if result["error"] and "\n" in result.get("result", ""):
            click.echo(f"\nline {number}:\n{printable_lines(result['result'])}")
    output = answer.get("output")
    if output:
        click.echo(f"\nlog:\n{printable_lines(output)}")
    took = duration_text(answer["duration_ms"]) if answer["duration_ms"] >= 1000 else ""
    took = took or f"{answer['duration_ms']} ms"
    click.echo(f"\nversion {answer['version']}, {answer['lang']}, {took}", err=True)


def _said(result: Any) -> str:
    text = result["error"] or result.get("result", "")
    return str(text) if text or "result" in result else f"base64 {result['result_base64']}"
