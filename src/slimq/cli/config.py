"""``slimq config``: which settings hold, and who said so."""

from __future__ import annotations

from typing import Any

import click

from slimq.cli.options import config_options, load_config
from slimq.cli.output import json_option, print_json, print_next, print_table


@click.group(name="config")
def command() -> None:
    """Look at the configuration."""


@command.command(name="show")
@config_options
@click.option("--origin", is_flag=True, help="Also say which layer each value comes from.")
@json_option
def show(origin: bool, as_json: bool, **given: Any) -> None:
    """Print all settings as a node started here would have them. Secrets are hidden."""
    config = load_config(given)
    origins = config.origins()
    if as_json:
        print_json(
            {
                name: {"value": value, "origin": origins[name]} if origin else value
                for name, value in config.shown.items()
            }
        )
        return
    titles = ("setting", "value", "origin") if origin else ("setting", "value")
    rows = [(name, _text(value), origins[name]) for name, value in config.shown.items()]
    print_table(titles, [row[: len(titles)] for row in rows])
    if not origin:
        print_next("slimq config show --origin")


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
