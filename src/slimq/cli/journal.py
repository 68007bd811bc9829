"""``slimq journal``: the durable log of a data folder, looked at and read again."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from slimq import node
from slimq.cli.options import config_options, load_config
from slimq.cli.output import (
    instant_text,
    json_option,
    print_json,
    print_next,
    print_table,
)
from slimq.journal.check import SegmentInfo, check_folder, list_segments
from slimq.system.disk import SystemDisk

DAMAGED = 1


@click.group(name="journal")
def command() -> None:
    """Look at the journal of a data folder, on the machine of the node."""


@command.command(name="ls")
@config_options
@json_option
def list_(as_json: bool, **given: Any) -> None:
    """List the segments that are kept, the oldest first. May be run beside the node."""
    segments = list_segments(load_config(given).journal_path, SystemDisk())
    if as_json:
        print_json({"segments": [_view(segment) for segment in segments]})
        return
    titles = ("segment", "bytes", "written", "first job", "file")
    print_table(titles, [_row(segment)[: len(titles)] for segment in segments])
    print_next("slimq journal check")


def _view(segment: SegmentInfo) -> dict[str, Any]:
    """What a list does not count is not shown in it."""
    names = ("number", "name", "bytes", "written_at", "first_id")
    return {name: getattr(segment, name) for name in names}


def _row(segment: SegmentInfo) -> list[Any]:
    written = instant_text(segment.written_at)
    return [segment.number, segment.bytes, written, segment.first_id, segment.name]


@command.command(name="check")
@config_options
@json_option
def check(as_json: bool, **given: Any) -> int:
    """Read every record and compare its checksum; exit with 1 when something is damaged.

    May be run beside the node: what is written at this moment shows as the tail.
    """
    segments = check_folder(load_config(given).journal_path, SystemDisk())
    damaged = sum(segment.damaged for segment in segments)
    if as_json:
        views = [msgspec.structs.asdict(segment) for segment in segments]
        print_json({"ok": not damaged, "segments": views})
        return DAMAGED if damaged else 0
    titles = ("segment", "bytes", "records", "jobs", "damaged", "damaged bytes", "tail bytes")
    print_table(titles, [_checked_row(segment) for segment in segments])
    if damaged:
        print_next(f"the {damaged:,} damaged pieces are passed over; see docs/operating.md")
    return DAMAGED if damaged else 0


def _checked_row(segment: SegmentInfo) -> list[Any]:
    return [
        segment.number,
        segment.bytes,
        segment.records,
        segment.jobs,
        segment.damaged,
        segment.damaged_bytes,
        segment.tail_bytes,
    ]


@command.command(name="replay")
@config_options
@click.option(
    "--since",
    type=click.IntRange(min=0),
    default=0,
    metavar="SEGMENT",
    help="The first segment to read again; if not given, the oldest that is kept.",
)
@json_option
def replay(since: int, as_json: bool, **given: Any) -> None:
    """Let a stopped node ingest kept segments again: after a restore of its store.

    Jobs that the store has are not added twice; those that were purged since come back.
    """
    node.replay(load_config(given), since)
    if as_json:
        print_json({"ok": True, "since": since})
        return
    click.echo(f"segments from {since} on are ingested again at the next start")
    print_next("slimq serve")
