"""``slimq journal``: the durable log of a data folder, looked at and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from slimq.cli.checkup import Check
from slimq.cli.options import config_options, load_config
from slimq.cli.output import json_option, print_json, print_next, print_table
from slimq.journal.check import check_folder, list_segments
from slimq.node import replay as replay_segments


@click.group(name="journal")
def command() -> None:
    """Look at the journal of a data folder, on the machine of the node."""
