"""What the journal of a simulated node holds, for those who check."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sim.node import SimNode
from slimq.core.jobid import block_from
from slimq.journal.reader import Entry
from slimq.journal.record import Header, JobLine, Position
from slimq.store.base import Cursor


def pending(node: SimNode, cursor: Cursor) -> set[str]:
    """Return the ids that are in the journal, and by this cursor not in the store yet: what
    a restart would bring in. Nothing goes wrong meanwhile."""
    gate, node.disk.gate = node.disk.gate, lambda name: None
    try:
        found = {id_ for header in node.writer.unsynced for id_ in _block(header)}
        inside = cursor.lines
        for entry in _entries(node, Position(cursor.segment, cursor.offset)):
            found.update(_ids(entry)[inside:])
            inside = 0
        return found
    finally:
        node.disk.gate = gate


def _entries(node: SimNode, position: Position) -> Iterator[Entry]:
    while True:
        entries, following = node.reader.read(position, 1 << 20)
        yield from entries
        if following == position:
            return
        position = following


def _ids(entry: Entry) -> list[str]:
    ids = _block(entry.header)
    if entry.header.kind != "jobs":
        return ids
    lines, _, _ = entry.body.lines(0, entry.header.count, 1 << 30)
    own = [msgspec.json.decode(line, type=JobLine).id for line in lines]
    return [mine or id_ for mine, id_ in zip(own, ids, strict=True)]


def _block(header: Header) -> list[str]:
    return block_from(header.id, header.count).ids()
