"""``slimq serve``: a node, in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

import click

from slimq import __version__
from slimq.cli.options import config_options, load_config
from slimq.cli.output import flush_or_drop, printable
from slimq.config import Config
from slimq.node import run
from slimq.system.clock import SystemClock
from slimq.system.log import EventLog, bridge_logging

_BANNER = """\
slimq {version} is ready

  API    {url}
  data   {data}
  store  {store}

Try it, in another terminal:

  # lines of jobtype "echo" go through sed; it answers each with its status
  curl -X PUT '{url}/handlers/echo' -d '{{"lang":"exec","body":["sed","s/^/200 /"]}}'

  # each line is a job; the answer is its id
  ID=$(curl -s -H 'Accept: text/plain' --data-binary 'hello' '{url}/add?jobtype=echo')

  # what became of it
  curl "{url}/jobs/$ID?wait=30"

Stop it with Ctrl-C, or: curl -X POST '{url}/quit'
"""


@click.command(name="serve")
@config_options
def command(**given: Any) -> int:
    """Start a node, and keep it running until Ctrl-C, SIGTERM or `slimq quit`.

    The banner goes to standard output, the log to standard error, one JSON object a line.
    """
    config = load_config(given)
    log = EventLog(sys.stderr, SystemClock(), config.log.level)
    bridge_logging(log)
    return run(config, log=log, ready=lambda url: show_banner(sys.stdout, url, config))


def show_banner(stream: TextIO, url: str, config: Config) -> None:
    """Say where the node is, and what to try. A stream that nobody reads is no reason to
    stop the node."""
    text = _BANNER.format(
        version=__version__,
        url=url,
        data=printable(str(Path(config.data.path).absolute())),
        store=printable(config.store_shown),
    )
    try:
        stream.write(text)
    except (OSError, ValueError):  # ValueError: it is closed, or cannot encode the path
        pass
    flush_or_drop(stream)
