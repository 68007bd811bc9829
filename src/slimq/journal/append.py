"""One record on its way into the journal."""

from __future__ import annotations

from collections.abc import Callable

from slimq.errors import SlimqError
from slimq.journal.body import Body
from slimq.journal.record import Header, Position


class Append:
    """A record to append, and what became of it.

    `durability` is "journal" (on disk before it is done) or "buffered" (written before it
    is done, on disk 50 ms later). `requests` is how many share it. Then either `error` says
    why it was refused, or `start` and `end` say where it is. `done` is for whoever delivers;
    the journal does not call it.
    """

    __slots__ = ("body", "done", "durability", "end", "error", "header", "requests", "start")

    def __init__(
        self,
        header: Header,
        body: Body,
        durability: str = "journal",
        done: Callable[[Append], None] | None = None,
        requests: int = 1,
    ) -> None:
        self.header = header
        self.body = body
        self.durability = durability
        self.done = done
        self.requests = requests
        self.error: SlimqError | None = None
        self.start = Position()
        self.end = Position()
