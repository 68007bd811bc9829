"""The command ``slimq``: finds the command, runs it, turns errors into one line and a code.

0    done                                3    another process holds the data folder
1    unexpected, or `doctor` found       4    the data folder cannot be used
     something broken                    5    the port is taken
2    wrong usage or configuration        6    the node cannot be reached
130  interrupted                         7    the node refused
141  nobody reads the output any more
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from slimq import __version__
from slimq.cli.output import flush_or_drop, open_closed_streams, print_failure
from slimq.errors import SlimqError

READER_GONE = 141  # as shells say it: 128 + SIGPIPE
INTERRUPTED = 130  # as shells say it: 128 + SIGINT

# A module is imported when its command runs: most commands are short calls of a node, and
# need none of what `serve` needs (which triples the time to start).
COMMANDS = {
    "serve": "slimq.cli.serve",
    "dev": "slimq.cli.dev",
    "add": "slimq.cli.add",
    "jobs": "slimq.cli.jobs",
    "types": "slimq.cli.types",
    "fn": "slimq.cli.fn",
    "start": "slimq.cli.control:start",
    "stop": "slimq.cli.control:stop",
    "quit": "slimq.cli.control:quit_",
    "status": "slimq.cli.status",
    "nodes": "slimq.cli.nodes",
    "top": "slimq.cli.top",
    "config": "slimq.cli.config",
    "journal": "slimq.cli.journal",
    "db": "slimq.cli.db",
    "doctor": "slimq.cli.doctor",
}


class ReaderGone(Exception):
    """Who read the output has enough. (click would end with 1, as if it were a bug.)"""


class CommandTable(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name or "command")
        return command


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slimq", message="%(prog)s %(version)s")
def slimq() -> None:
    """A slim serverless job queue: POST lines, each line is a durable job.

    Start a node with `slimq serve`, or with `slimq dev` to write functions; all other commands
    talk to it.
    """


def main() -> None:
    """Run the command that `sys.argv` says, and exit with its code."""
    open_closed_streams()
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        flush_or_drop(stream)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code. A bug is left to end in a traceback, with code 1."""
    try:
        code = slimq.main(list(arguments), prog_name="slimq", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ReaderGone:
        return READER_GONE
    except SlimqError as error:
        return print_failure(error)
    return code if isinstance(code, int) else 0
