"""Small requests that arrive together share a record of the journal.

What a record costs (its header, its place in the index, its way into the store) is far
more than what a small request costs. So requests for one type whose bodies are here as a
whole in one turn of the loop become one record, whose block of ids is cut up among them.
It is written whole or not at all, and so is each of them. A request that arrives alone is
alone in its record: nobody waits for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from slimq.api.options import Durability
from slimq.api.outcome import Accepted, Done
from slimq.core.jobid import IdBlock, Minter
from slimq.core.limits import KIB
from slimq.errors import SlimqError
from slimq.journal.append import Append
from slimq.journal.body import Body
from slimq.journal.record import Header
from slimq.system.clock import Clock

SMALL_MAX = 16 * KIB  # bytes of a body that goes with others: far below the longest line
TOGETHER_MAX = 60  # requests in one record: a body below 1 MiB, the least `accept.body_max`

_Small = tuple[bytes, int, Done]  # lines, each with its newline; how many; who asked


class Gatherer:
    """Used on the event loop only. Ids are minted, and records submitted, at the end of a turn
    at the latest."""

    def __init__(
        self,
        *,
        minter: Minter,
        submit: Callable[[Append], None],
        new_body: Callable[[], Body],
        clock: Clock,
    ) -> None:
        self._minter = minter
        self._submit = submit
        self._new_body = new_body
        self._clock = clock
        self._gathered: dict[tuple[str, Durability], list[_Small]] = {}

    def add(self, type_: str, durability: Durability, data: bytes, lines: int, done: Done) -> None:
        """Accept the `lines` lines of a small body. `done` is called once: when they are
        durable, or with the error."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        key = type_, durability
        gathered = self._gathered.get(key)
        if gathered is None:
            gathered = self._gathered[key] = []
        gathered.append((data, lines, done))
        if len(gathered) == TOGETHER_MAX:
            del self._gathered[key]
            self._submit_record(*key, gathered)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for (type_, durability), requests in gathered.items():
            self._submit_record(type_, durability, requests)

    def _submit_record(self, type_: str, durability: Durability, requests: list[_Small]) -> None:
        body = self._new_body()
        try:
            body.feed(b"".join([data for data, _, _ in requests]))
            body.finish()
            now = self._clock.wall_ms()
            ids = self._minter.block(body.count, now)
            header = Header(ids.first, ids.count, now, type=type_)
            on_durable = _answerer(requests, ids, durability)
            self._submit(Append(header, body, durability, on_durable, len(requests)))
        except SlimqError as error:  # the journal is closing, or a spool file cannot be written
            body.discard()
            _tell_all(requests, error)


def _answerer(
    requests: list[_Small], ids: IdBlock, durability: Durability
) -> Callable[[Append], None]:
    def on_durable(append: Append) -> None:
        if append.error is not None:
            _tell_all(requests, append.error)
            return
        start, sysid = ids.start, ids.sysid
        for _, lines, done in requests:
            block = IdBlock(start, sysid, lines)
            done(Accepted(block.first, block, durability))
            start += lines

    return on_durable


def _tell_all(requests: list[_Small], error: SlimqError) -> None:
    for _, _, done in requests:
        done(error)
