"""The Idempotency-Keys of what the journal holds and the store may not know, at start."""

from __future__ import annotations

import msgspec

from slimq.api.accept import Acceptor
from slimq.journal.reader import JournalReader
from slimq.journal.record import JobLine, Position

_READ_BYTES = 1 << 20
_decode_line = msgspec.json.Decoder(JobLine).decode


def restore_keys(acceptor: Acceptor, reader: JournalReader, start: Position) -> None:
    """Let the acceptor know all keys of the journal from `start` on. Raises JournalFailed."""
    while True:
        entries, following = reader.read(start, _READ_BYTES)
        for entry in entries:
            lines: list[JobLine] = []
            if entry.header.kind == "jobs":
                body, _, _ = entry.body.lines(0, entry.header.count, 1 << 30)
                lines = [_decode_line(line) for line in body]
            if entry.header.key or lines:
                acceptor.restore(entry.header, lines)
        if following == start:
            return
        start = following
