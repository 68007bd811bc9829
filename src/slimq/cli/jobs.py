"""``slimq jobs``: which jobs there are, what became of them, run them again, end them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from slimq.cli.caller import Caller, part
from slimq.cli.options import node_option
from slimq.cli.output import (
    cell,
    json_option,
    print_json,
    print_members,
    print_next,
    print_table,
    printable_lines,
)
from slimq.core.duration import parse_ms
from slimq.core.lifecycle import State
from slimq.core.limits import LIST_MAX, WAIT_MAX_S
from slimq.core.status import Outcome
from slimq.system.clock import SystemClock

COLUMNS = ("id", "type", "state", "status", "attempt", "due", "error")
_OUTCOMES = [Outcome.OK.value, Outcome.FAILED.value, Outcome.ERROR.value]
_BLOCKS = ("data", "result")


@click.group(name="jobs")
def command() -> None:
    """List jobs, look at one, run or end them."""


def _instant(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """A duration means that long ago; the node reads everything else."""
    try:
        return str(SystemClock().wall_ms() - parse_ms(text)) if text else None
    except ValueError:
        return text


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which jobs it is about."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


_FILTERS = (
    click.option("--client", help="Jobs of this client."),
    click.option("--jobtype", help="Jobs of this jobtype."),
    click.option(
        "--state", type=click.Choice([state.value for state in State]), help="Jobs in it."
    ),
    click.option("--outcome", type=click.Choice(_OUTCOMES), help="Of done jobs."),
    click.option(
        "--since", callback=_instant, help="Accepted since: RFC 3339, epoch ms, or 2h (ago)."
    ),
    click.option("--until", callback=_instant, help="Accepted before: written like --since."),
)


@command.command(name="ls")
@filter_options
@click.option("--before", metavar="ID", help="Jobs below this id: the next page.")
@click.option(
    "--limit", type=click.IntRange(1, LIST_MAX), default=20, show_default=True, help="How many."
)
@node_option
@json_option
def list_(node: Caller, as_json: bool, **query: Any) -> None:
    """List jobs, the newest first."""
    page = node.get("/jobs", query)
    if as_json:
        print_json(page)
        return
    print_table(COLUMNS, [_row(job) for job in page["jobs"]])
    if page["next"]:
        print_next(f"the same with --before {page['next']}")
    elif page["jobs"]:
        print_next("slimq jobs get ID")


def _row(job: dict[str, Any]) -> list[Any]:
    names = ("id", "type", "state", "status", "attempt", "due_at", "error")
    return [str(job[name]) if name == "status" and job[name] else job.get(name) for name in names]


@command.command(name="get")
@click.argument("id")
@click.option(
    "--wait",
    type=click.IntRange(0, WAIT_MAX_S),
    metavar="SECONDS",
    help="Wait until the job is done, at most this long.",
)
@node_option
@json_option
def get(id: str, wait: int | None, node: Caller, as_json: bool) -> None:
    """Show a job: its data, its result, and each run."""
    job = node.get(f"/jobs/{part(id)}", {"wait": wait})
    if as_json:
        print_json(job)
        return
    runs = job.pop("runs", [])
    blocks = [(name, *_bytes_member(job, name)) for name in _BLOCKS]
    print_members(_plain(job))
    for name, title, text in blocks:
        _print_block(title or name, text)
    for run in runs:
        _print_run(run)
    _say_next(job)


def _plain(members: dict[str, Any]) -> dict[str, Any]:
    """Codes and counts of one job are names, not amounts: no commas in them."""
    return {name: None if value is None else str(value) for name, value in members.items()}


def _bytes_member(members: dict[str, Any], name: str) -> tuple[str, str]:
    """Take out a member that holds bytes; return its name and its text."""
    for title in (name, f"{name}_base64"):
        if title in members:
            return title, members.pop(title)
    return name, ""


def _print_block(title: str, text: str) -> None:
    if text:
        click.echo(f"\n{title}:\n{printable_lines(text)}")


def _print_run(run: dict[str, Any]) -> None:
    facts = f"{run['status']} {run['outcome']}, {run['started_at']} to {run['ended_at']}"
    click.echo(f"\nrun {run['attempt']}: {facts}, on {cell(run['node'])}")
    for name in ("error", "result", "output"):
        title, text = _bytes_member(run, name)
        _print_block(f"  {title}", text)


def _say_next(job: dict[str, Any]) -> None:
    if job["state"] != State.DONE:
        print_next(f"slimq jobs get {job['id']} --wait 30")
    elif job["outcome"] != Outcome.OK:
        print_next(f"slimq jobs retry {job['id']}")


def _change(verb: str, node: Caller, ids: tuple[str, ...], everything: bool, where: Any) -> Any:
    """Cancel or retry the jobs that the arguments or the filters say."""
    filters = any(value is not None for value in where.values())
    if sum((bool(ids), everything, filters)) != 1:
        raise click.UsageError("say which jobs: ids, or filters such as --jobtype, or --all")
    if ids:
        jobs = [node.post(f"/jobs/{part(id_)}/{verb}") for id_ in ids]
        return {"count": len(jobs)}
    return node.post(f"/jobs/{verb}", {**where, "all": "true" if everything else None})


@command.command(name="retry")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_options
@click.option("--all", "everything", is_flag=True, help="Every job that did not end OK.")
@node_option
@json_option
def retry(
    ids: tuple[str, ...], everything: bool, node: Caller, as_json: bool, **where: Any
) -> None:
    """Run done jobs again, and deferred ones now. By filter, those that ended OK are run
    again only when the filter asks for them."""
    answer = _change("retry", node, ids, everything, where)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['count']:,} to run again")
    print_next(f"slimq jobs get {ids[0]} --wait 30" if ids else "slimq top")


@command.command(name="cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_options
@click.option("--all", "everything", is_flag=True, help="Every job that is not done.")
@node_option
@json_option
def cancel(
    ids: tuple[str, ...], everything: bool, node: Caller, as_json: bool, **where: Any
) -> None:
    """End jobs that are not done, with status 499; what runs is stopped."""
    answer = _change("cancel", node, ids, everything, where)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['count']:,} cancelled")
    print_next("to run them after all: slimq jobs retry ...")
