"""``slimq serve``: a node, in the foreground."""

from __future__ import annotations

import gc
import socket
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from slimq import __version__
from slimq.api.server import reserve
from slimq.cli.options import config_options, load_config
from slimq.cli.output import flush_or_drop, print_failure, printable
from slimq.config import Config
from slimq.errors import SlimqError
from slimq.node import Seat, run
from slimq.supervisor import Supervisor, left_over
from slimq.system.clock import SystemClock
from slimq.system.fork import Body, Parent, SystemForks
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
    """Start a node, or several (--workers), and keep them running until Ctrl-C, SIGTERM or
    `slimq quit`.

    The banner goes to standard output, the log to standard error, one JSON object a line.
    """
    config = load_config(given)
    log = EventLog(sys.stderr, SystemClock(), config.log.level)
    bridge_logging(log)
    if config.server.workers > 1 or left_over(config):
        return _supervise(config, log)
    return run(config, log=log, ready=lambda url: show_banner(sys.stdout, url, config))


def _supervise(config: Config, log: EventLog) -> int:
    """Run several nodes, each a process, and this one to look after them."""
    host = config.server.host
    reserved = reserve(host, config.server.port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{reserved.getsockname()[1]}"
    gc.freeze()  # what is loaded now is shared by all: a collection would copy it
    with reserved, SystemForks() as forks:
        supervisor = Supervisor(
            config,
            reserved,
            forks=forks,
            clock=SystemClock(),
            log=log,
            work=lambda config, listener: _work(config, listener, log),
            ready=lambda: show_banner(sys.stdout, url, config),
        )
        return supervisor.run()


def _work(config: Config, listener: socket.socket | None, log: EventLog) -> Body:
    """Return what a worker does: it is a node."""

    def work(parent: Parent) -> int:
        own_log = log.with_fields(worker=config.worker)
        bridge_logging(own_log)
        seat = Seat(listener, parent.tell_end)
        try:
            return run(config, log=own_log, ready=lambda _: parent.tell_ready(), seat=seat)
        except SlimqError as error:
            return print_failure(error)

    return work


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
