"""``slimq db``: the schema of a store."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import click

from slimq.cli.options import config_options, load_config
from slimq.cli.output import json_option, print_json, print_members, print_next
from slimq.config import Config
from slimq.store.migrate import DIALECTS, Schema, known
from slimq.store.place import Place, look, migrate, state_of


@click.group(name="db")
def command() -> None:
    """Look after the schema of a store."""


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
