"""``slimq dev``: a node at which every file of a folder is a function, deployed when it changes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import click

from slimq import __version__
from slimq.cli.caller import Caller
from slimq.cli.dev_functions import FunctionFolder
from slimq.cli.dev_screen import Screen
from slimq.cli.options import load_config
from slimq.cli.output import printable
from slimq.config import Config
from slimq.errors import SlimqError
from slimq.node import run
from slimq.system.clock import SystemClock
from slimq.system.log import EventLog, bridge_logging

_LOOK_S = 0.2
_ECHO = {"lang": "exec", "body": ["sed", "s/^/200 /"]}
_BANNER = """\
slimq {version} runs the functions of {folder}

  API   {url}
  data  {data}, kept between runs

Every file NAME.py there, and every folder NAME with a main.py, is a function: the lines of
jobtype NAME go to its handler(event, context). So are files in other languages (.js, .ts, .wasm). A
change is deployed at once. Jobtype "echo" is built in. Try it, in another terminal:

  # each line is a job; the answer is its id
  curl --data-binary 'hello' '{url}/add?jobtype=echo'

  # what became of the last ones
  curl '{url}/jobs?limit=5'

Stop it with Ctrl-C.
"""
_UNHELD = """
Functions do not run: {lacking}. Mend it: {advice}
Or run your own ones without a sandbox: slimq dev --unsafe-no-sandbox
"""


@click.command(name="dev")
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default="."
)
@click.option("--port", help="Port to listen on.")
@click.option("--data", help="Data folder.")
@click.option(
    "--unsafe-no-sandbox",
    is_flag=True,
    help="Run functions as slimq itself, where there is no sandbox. Your own ones.",
)
@click.option("--env", help="Which DIR/ENV.toml is read; before SLIMQ_ENV.")
@click.option(
    "--config",
    "config_folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the configuration files; ./config if not given.",
)
def command(folder: Path, config_folder: Path | None, **given: Any) -> int:
    """Write functions: every file of FOLDER (this one, if not given) is a function.

    A node runs on the loopback address, deploys what changes within a second, soon tries jobs
    again that failed, and shows results and logs here.
    """
    fixed = {"host": "127.0.0.1", "workers": "1", "role": None, "store": None, "store_url": None}
    config = load_config({**given, **fixed, "folder": config_folder})
    log = EventLog(sys.stderr, SystemClock(), "warning")
    bridge_logging(log)
    screen = Screen(SystemClock())
    session = _Session(folder.absolute(), config, screen)
    try:
        return run(config, log=log, ready=session.start, landed=screen.show)
    finally:
        session.end()


class _Session:
    """Looks after the functions of a folder while the node runs, on a thread of its own."""

    def __init__(self, folder: Path, config: Config, screen: Screen) -> None:
        self._folder = folder
        self._config = config
        self._screen = screen
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, url: str) -> None:
        self._thread = threading.Thread(target=self._work, args=(Caller(url),), name="dev")
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, node: Caller) -> None:
        try:
            self._begin(node)
            functions = FunctionFolder(self._folder, node, self._screen.say)
            while not self._over.is_set():
                functions.look()
                self._over.wait(_LOOK_S)
        except SlimqError as error:
            if not self._over.is_set():
                self._screen.say("slimq", error.detail, is_bad=True)

    def _begin(self, node: Caller) -> None:
        about = node.get("/status")["node"]
        known = node.get("/handlers", {"jobtype": "echo"})["handlers"]
        if not any(handler["client"] == "*" for handler in known):
            node.send_json("PUT", "/handlers/echo", {}, _ECHO)
        text = _BANNER.format(
            version=__version__,
            folder=printable(str(self._folder)),
            url=node.url,
            data=printable(str(Path(self._config.data.path).absolute())),
        )
        if not about["sandbox"]["ready"]:
            text += _UNHELD.format(**about["sandbox"])
        click.echo(text)
