"""``slimq db``: the schema of a store, and the way from one store to another."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

import click

from slimq.cli.options import config_options, load_config
from slimq.cli.output import json_option, print_json, print_members, print_next, print_table
from slimq.config import Config
from slimq.errors import ConfigError, StoreUnavailable
from slimq.store.counts import KINDS
from slimq.store.migrate import DIALECTS, Schema, known
from slimq.store.moving import TABLES, Content, End, move
from slimq.store.place import Place, look, migrate, open_end, place_of, state_of

POLL_S = 0.2
_STATES = ("waiting", "running", "ok", "failed", "error")


@click.group(name="db")
def command() -> None:
    """Look after a store: its schema, and where it is."""


def place_in(config: Config) -> Place:
    """Return where the configured store is."""
    return Place(config.store.url, config.store_path)


@command.command(name="version")
@config_options
@json_option
def version(as_json: bool, **given: Any) -> None:
    """Say which schema the store has, and which this slimq knows. Changes nothing."""
    place = place_in(load_config(given))
    schema = look(place)
    members = {
        "store": place.shown,
        "schema": schema.number,
        "least": schema.least,
        "known": place.migrations.latest,
        "state": state_of(place, schema),
    }
    if as_json:
        print_json(members)
        return
    print_members(members)
    if place.migrations.missing(schema):
        print_next("slimq db migrate --plan", "slimq db migrate")


@command.command(name="migrate")
@config_options
@click.option("--plan", is_flag=True, help="Only say what would be run.")
@json_option
def migrate_(plan: bool, as_json: bool, **given: Any) -> None:
    """Bring the schema of the store up to date, as a node does at its start.

    It is one transaction: all of it or nothing.
    """
    place = place_in(load_config(given))
    schema = look(place)
    place.migrations.check(schema, place.shown)
    names = [script.name for script in place.migrations.missing(schema)]
    if not plan:
        schema = migrate(place)
    if as_json:
        print_json({"store": place.shown, "schema": schema.number, "scripts": names})
        return
    for name in names:
        click.echo(f"{'would run' if plan else 'ran'} {place.dialect.name}/{name}")
    click.echo(f"{place.shown} has schema {schema.number}")
    if plan and place.migrations.locks_out(schema):
        print_next("stop all nodes first: the slimq that runs now cannot use the next schema")


@command.command(name="sql")
@config_options
@click.option(
    "--dialect",
    type=click.Choice(sorted(DIALECTS)),
    help="For a store that is not there yet; if not given, for the configured one as it is.",
)
@click.option(
    "--owner",
    help="The role that all is made for (PostgreSQL). If not given: who owns the schema now, "
    "or the user of the URL.",
)
def sql(dialect: str | None, owner: str | None, **given: Any) -> None:
    """Print what brings the store up to date, for a DBA to run: one transaction.

    A node that comes after it finds nothing left to do. Prints nothing when that is so now.
    """
    if dialect:
        migrations, schema = known(DIALECTS[dialect]), Schema()
    else:
        place = place_in(load_config(given))
        migrations, schema = place.migrations, look(place)
        migrations.check(schema, place.shown)
        owner = owner or schema.owner or unquote(urlsplit(place.url).username or "")
    text = migrations.text(schema, owner=owner or "")
    click.echo(text, nl=False)
    if not text:
        print_next("nothing is to be done")


@command.command(name="copy")
@click.option("--from", "source", required=True, metavar="STORE", help="A file or a URL.")
@click.option("--to", "target", required=True, metavar="STORE", help="A file or a URL.")
@click.option(
    "--wait",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for jobs that run.",
)
@json_option
def copy(source: str, target: str, wait: int, as_json: bool) -> None:
    """Move all of a store to another place, for example a file to a PostgreSQL.

    Stop the engines first (`slimq stop` on each node); accepting goes on. The source refuses
    changes from then on: point the nodes at the target, and start them again. It is all or
    nothing: a copy that fails leaves the target empty and opens the source again.
    """
    places = place_of(source), place_of(target)
    _check(places[0])
    migrate(places[1])
    with closing(open_end(places[0])) as there, closing(open_end(places[1])) as here:
        content = _move(there, here, wait)
    if as_json:
        print_json(_document(content))
    else:
        _show(content)
        print_next(f"set the store of each node to {here.shown}", "restart it, and: slimq start")


def _check(place: Place) -> None:
    schema = look(place)
    place.migrations.check(schema, place.shown)
    if schema.number == 0:
        raise ConfigError(f"there is no store at {place.shown}")
    if schema.number != place.migrations.latest:
        rule = f"its schema is {schema.number}, only {place.migrations.latest} is copied"
        raise StoreUnavailable(f"the store {place.shown} cannot be used: {rule}")


def _move(source: End, target: End, wait_s: int) -> Content:
    give_up = time.monotonic() + wait_s

    def patience(held: int) -> bool:
        if time.monotonic() >= give_up:
            return False
        click.echo(f"\r{held:,} jobs run, waiting for them ", nl=False, err=True)
        time.sleep(POLL_S)
        return True

    with click.progressbar(
        length=2 * source.size(), label="copy and compare", show_pos=True, file=sys.stderr
    ) as bar:
        return move(source, target, patience=patience, tell=bar.update)


def _document(content: Content) -> dict[str, Any]:
    return {
        "rows": {table: count for table, (count, _) in content.tables.items()},
        "sums": {table: f"{total:032x}" for table, (_, total) in content.tables.items()},
        "jobs": _by_state(content),
    }


def _by_state(content: Content) -> dict[str, int]:
    counts = dict.fromkeys(_STATES, 0)
    for (_, kind), count in content.kinds.items():
        counts[_STATES[KINDS.index(kind)]] += count
    return counts


def _show(content: Content) -> None:
    rows = [
        (table, content.tables[table][0], f"{content.tables[table][1]:032x}") for table in TABLES
    ]
    print_table(("table", "rows", "sum"), rows)
    states = ", ".join(f"{count:,} {state}" for state, count in _by_state(content).items())
    click.echo(f"jobs: {states}; compared on both sides")


@command.command(name="reopen")
@config_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def reopen(yes: bool, as_json: bool, **given: Any) -> None:
    """Let a store that was moved take changes again: the way back, or after a broken copy.

    Only while no node has used the copy: all its jobs would run twice.
    """
    place = place_in(load_config(given))
    _check(place)
    with closing(open_end(place)) as end:
        moved_to = end.closed_for()
        if moved_to and not yes:
            question = f"has no node used {moved_to} since? Open {place.shown} again"
            click.confirm(question, abort=True, err=True)
        if moved_to:
            end.reopen()
    if as_json:
        print_json({"store": place.shown, "moved_to": moved_to or None})
        return
    click.echo(f"{place.shown} {'is open again' if moved_to else 'was open'}")
