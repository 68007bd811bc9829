"""``slimq doctor``: is this machine fit for a node, and is the data folder well?"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import apsw
import click

from slimq.cli import checkup
from slimq.cli.checkup import Check
from slimq.cli.checkup_database import database
from slimq.cli.checkup_functions import languages, sandbox
from slimq.cli.options import config_options, load_config
from slimq.cli.output import json_option, print_json
from slimq.config import SANDBOX_OFF, Config
from slimq.errors import ConfigError
from slimq.runner.programs import find_programs
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups
from slimq.system.clock import SystemClock

_MOUNTS = Path("/proc/self/mounts")


@click.command(name="doctor")
@config_options
@json_option
def command(as_json: bool, **given: Any) -> int:
    """Examine this machine and the data folder; exit with 1 when something is broken.

    Reads only, so that it may be run beside a node.
    """
    checks = examine(given)
    fit = all(check.state != "fail" for check in checks)
    if as_json:
        print_json({"ok": fit, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            click.echo(f"{check.state:4}  {check.name:11}  {check.detail}")
            if check.advice:
                click.echo(f"{'':19}-> {check.advice}")
    return 0 if fit else 1


def examine(given: dict[str, Any]) -> list[Check]:
    """Return all checks; without a configuration, those that need none."""
    checks = [checkup.python(sys.version_info[:3]), checkup.sqlite(apsw.sqlite_lib_version())]
    try:
        config = load_config(given)
    except ConfigError as error:
        return [*checks, Check("config", "fail", error.detail, "see docs/configuration.md")]
    checks.append(Check("config", "ok", f"env {config.env}"))
    return checks + _of_config(config)


def _of_config(config: Config) -> list[Check]:
    data = Path(config.data.path)
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        checkup.folder(data),
        checkup.free_space(data),
        checkup.fsync(data),
        checkup.journal(config.journal_path),
        *_of_store(config),
        checkup.port(config.server.host, config.server.port),
        checkup.descriptors(open_files),
        checkup.clock(data, SystemClock()),
        sandbox(Sandbox(ControlGroups(), unsafe=config.functions.sandbox == SANDBOX_OFF)),
        languages(find_programs()),
    ]


def _of_store(config: Config) -> list[Check]:
    if config.store.url:
        return database(config.store.url)
    mounts = _MOUNTS.read_text() if _MOUNTS.exists() else ""
    return [checkup.file_system(config.store_path, mounts), checkup.store(config.store_path)]
