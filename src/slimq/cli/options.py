"""Options that several commands have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from slimq.cli.caller import Caller
from slimq.config import DEFAULT_FOLDER, SANDBOX_OFF, Config, load
from slimq.core.jobtype import DEFAULT_CLIENT, EVERY_CLIENT
from slimq.core.limits import LIST_MAX, STORE_PATH_MAX
from slimq.errors import ConfigError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _to_caller(context: click.Context, parameter: click.Parameter, url: str | None) -> Caller:
    return Caller(_url_here() if url is None else url)


def _url_here() -> str:
    """Return where a node listens that is started here: as the configuration says."""
    server = load({}, os.environ, DEFAULT_FOLDER, None).server
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


node_option: Decorator = click.option(
    "--url",
    "node",
    envvar="SLIMQ_URL",
    show_envvar=True,
    callback=_to_caller,
    help="Address of the node; if not given, what the configuration here says.",
)

client_option: Decorator = click.option(
    "--client", default=DEFAULT_CLIENT, show_default=True, help="Whose jobs."
)

every_client_option: Decorator = click.option(
    "--client",
    default=EVERY_CLIENT,
    show_default=True,
    help="For the jobs of this client; * for those of every client that has none of its own.",
)


def same_client(client: str) -> str:
    """Return what a next step says after a command with `every_client_option`, to be about
    the same client."""
    return "" if client == EVERY_CLIENT else f" --client {client}"


handler_options: Decorator = click.option(
    "--option",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the handler, such as timeout=90s, batch_size=100, retry_on=[404].",
)


def read_handler_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Return what `handler_options` were given."""
    return dict(map(_option, pairs))


def _option(pair: str) -> tuple[str, Any]:
    """Read ``name=value``; a value that is no JSON is text. (Python's NaN and Infinity are
    none, and the node could not read them.)"""
    name, equals, text = pair.partition("=")
    if not name or not equals:
        raise click.UsageError("--option: write NAME=VALUE")
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return name, text
    return name, value


page_option: Decorator = click.option(
    "--limit", type=click.IntRange(1, LIST_MAX), default=100, show_default=True, help="How many."
)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the configuration is, and the flags that
    set what is asked for most."""
    for option in reversed(_CONFIG_OPTIONS):
        command = option(command)
    return command


_CONFIG_OPTIONS: tuple[Decorator, ...] = (
    click.option("--host", help="Address to listen on."),
    click.option("--port", help="Port to listen on."),
    click.option("--data", help="Data folder."),
    click.option("--store", help="File of the store."),
    click.option("--store-url", help="PostgreSQL that holds the jobs instead of a file."),
    click.option("--workers", help="Nodes behind the port, each a process."),
    click.option("--role", help="What the node does: accept, run, or accept,run."),
    click.option(
        "--unsafe-no-sandbox",
        is_flag=True,
        help="Run functions as slimq itself. Your own ones, on a loopback address.",
    ),
    click.option("--env", help="Which DIR/ENV.toml is read; before SLIMQ_ENV."),
    click.option(
        "--config",
        "folder",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of the configuration files; ./config if not given.",
    ),
)


def load_config(given: Mapping[str, Any]) -> Config:
    """Return the configuration, for a command that has `config_options`."""
    flags = {
        "server.host": given["host"],
        "server.port": given["port"],
        "data.path": given["data"],
        "store.path": given["store"],
        "store.url": given["store_url"],
        "server.workers": given["workers"],
        "server.roles": given["role"],
        "functions.sandbox": SANDBOX_OFF if given["unsafe_no_sandbox"] else None,
    }
    config = load(flags, os.environ, given["folder"] or DEFAULT_FOLDER, given["env"])
    _check_place(config)
    return config


def _check_place(config: Config) -> None:
    """A data folder is shown in JSON, interpreters load functions of it by URLs, and SQLite takes
    no long path: of where we are the settings know nothing. Raises ConfigError."""
    choose = "choose another folder with --data, or change to one"
    try:
        place, store = str(Path(config.data.path).absolute()), config.store_path.absolute()
        place.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"data.path: {place!a} is no path in UTF-8: {choose}") from None
    except FileNotFoundError:
        raise ConfigError(f"data.path: the current folder is gone: {choose}") from None
    size = len(os.fsencode(store))
    if size > STORE_PATH_MAX and not config.store.url:
        rule = f"its path has {size} bytes, and SQLite takes {STORE_PATH_MAX}"
        raise ConfigError(f"the store {store}: {rule}: {choose}")
