"""``slimq serve``: a node, in the foreground."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from slimq import __version__
from slimq.cli.options import config_options, load_config
from slimq.cli.output import printable
from slimq.config import Config
from slimq.node import run
from slimq.system.clock import SystemClock
from slimq.system.log import EventLog

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
    out, err = unbuffered(sys.stdout, "utf-8"), unbuffered(sys.stderr, "ascii")
    log = EventLog(err, SystemClock(), config.log.level)
    return run(config, log=log, ready=lambda url: show_banner(out, url, config))


def unbuffered(stream: TextIO, encoding: str) -> TextIO:
    """Return a stream without its buffer: what nobody reads is lost at once, and not tried
    again at the exit, which would then not be with 0."""
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", write_through=True)


def show_banner(stream: TextIO, url: str, config: Config) -> None:
    """Say where the node is, and what to try. A stream that nobody reads is no reason to
    stop the node."""
    text = _BANNER.format(
        version=__version__,
        url=url,
        data=printable(str(Path(config.data.path).absolute())),
        store=printable(str(config.store_path.absolute())),
    )
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        pass
