"""Job ids: minted before any database is asked, sortable by time, in blocks.

    TTTTTTT-SSSSSSSS-QQQQ      21 characters
    |       |        +-- sequence within the millisecond, 24 bits
    |       +----------- sysid of the node that accepted the job, 48 bits, the highest 0
    +------------------- milliseconds since the epoch, 42 bits (until the year 2109)

Alphabet: ``0-9 A-Z _ a-z ~``, in ASCII order, so ids sort by time under a byte-wise
collation. Within one node (T, Q) is one counter of 66 bits: a block of n ids is n
consecutive values of it, and it never goes back, also when the clock does. Where the
highest bit of the sysid is 1, the id is not a node's: a database made it (`slimq.add`), or
the hash of a child did.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from slimq.errors import BadId

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
ID_LENGTH = 21
SYSID_LENGTH = 8
SEQUENCE_BITS = 24
_PREFIX_LENGTH = 17  # what ids of one node and millisecond share
_SYSID_MAX = (1 << 47) - 1
TIME_MAX = (1 << 42) - 1
_VALUE = {character: value for value, character in enumerate(ALPHABET)}
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
_ID = re.compile(r"[0-9A-Z_a-z~]{7}-[0-9A-Z_a-z~]{8}-[0-9A-Z_a-z~]{4}", re.ASCII)


def to_base64(value: int, length: int) -> str:
    """Return `value` in `length` characters of ALPHABET, most significant first."""
    characters = []
    for _ in range(length):
        characters.append(ALPHABET[value & 63])
        value >>= 6
    return "".join(reversed(characters))


def from_base64(text: str) -> int:
    value = 0
    for character in text:
        value = value << 6 | _VALUE[character]
    return value


class IdParts(NamedTuple):
    """What an id says: when (ms) and where (sysid) its job was accepted."""

    time_ms: int
    sysid: str
    sequence: int


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def parse_id(text: str) -> IdParts:
    """Return the parts of an id; raise BadId."""
    if not is_id(text):
        raise BadId("a job id has 21 characters of the form TTTTTTT-SSSSSSSS-QQQQ")
    return IdParts(from_base64(text[:7]), text[8:16], from_base64(text[17:]))


def id_floor(since: int | None) -> str:
    """Return the text that all ids of `since` (ms) and later are at or above; '': all are."""
    if since is None or since <= 0:
        return ""
    return to_base64(since, 7) if since <= TIME_MAX else "\x7f"  # above the alphabet


def id_ceiling(until: int | None) -> str:
    """Return the text that all ids from before `until` (ms) are below; '': all are."""
    if until is None or until > TIME_MAX:
        return ""
    return to_base64(max(until, 0), 7)


def make_sysid(random: bytes) -> str:
    """Return the sysid that 6 random bytes make."""
    assert len(random) == 6, "a sysid takes 48 bits"
    return to_base64(int.from_bytes(random, "big") & _SYSID_MAX, SYSID_LENGTH)


@lru_cache(maxsize=64)
def _prefix(time_ms: int, sysid: str) -> str:
    """Return what all ids of a millisecond share."""
    return f"{to_base64(time_ms, 7)}-{sysid}-"


class IdBlock(msgspec.Struct, frozen=True, gc=False):
    """`count` consecutive ids of one node. `start` is the counter (T << 24 | Q) of the first."""

    start: int
    sysid: str
    count: int

    def id_at(self, index: int) -> str:
        counter = self.start + index
        sequence = counter & 0xFFFFFF
        prefix = _prefix(counter >> SEQUENCE_BITS, self.sysid)
        return prefix + _PAIRS[sequence >> 12] + _PAIRS[sequence & 4095]

    @property
    def first(self) -> str:
        return self.id_at(0)

    @property
    def last(self) -> str:
        return self.id_at(self.count - 1)

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the ids from index `start` up to `stop` (default: all), in order."""
        ids: list[str] = []
        counter = self.start + start
        end = self.start + (self.count if stop is None else min(stop, self.count))
        while counter < end:  # one turn per millisecond that the block touches
            prefix = _prefix(counter >> SEQUENCE_BITS, self.sysid)
            turn_end = min(end, (counter | 0xFFFFFF) + 1)
            low = counter & 0xFFFFFF
            sequences = range(low, low + turn_end - counter)
            ids += [prefix + _PAIRS[q >> 12] + _PAIRS[q & 4095] for q in sequences]
            counter = turn_end
        return ids

    def index(self, id_: str) -> int | None:
        """Return where `id_` stands in the block, or None."""
        if id_[8:16] != self.sysid:
            return None
        parts = parse_id(id_)
        offset = (parts.time_ms << SEQUENCE_BITS | parts.sequence) - self.start
        return offset if 0 <= offset < self.count else None


def block_from(first: str, count: int) -> IdBlock:
    """Return the block of `count` ids that starts with the id `first`; raise BadId."""
    parts = parse_id(first)
    return IdBlock(parts.time_ms << SEQUENCE_BITS | parts.sequence, parts.sysid, count)


def whole_range(ids: Sequence[str]) -> tuple[str, str] | None:
    """Return the least and the greatest of ids when they are all that there are between these:
    the ids of one node and millisecond, each once."""
    first, last = min(ids), max(ids)
    if first[:_PREFIX_LENGTH] != last[:_PREFIX_LENGTH]:
        return None
    span = from_base64(last[_PREFIX_LENGTH:]) - from_base64(first[_PREFIX_LENGTH:]) + 1
    return (first, last) if span == len(ids) == len(set(ids)) else None


class Minter:
    """Mints the ids of one node. Not thread-safe: the accept path is its only user."""

    def __init__(self, sysid: str) -> None:
        self.sysid = sysid
        self._next = 0

    def block(self, count: int, now_ms: int) -> IdBlock:
        """Return `count` ids above all earlier ones, of the time `now_ms` or, when the
        clock stepped back or a millisecond is used up, of the latest time seen."""
        start = max(self._next, min(now_ms, TIME_MAX) << SEQUENCE_BITS)
        self._next = start + count
        return IdBlock(start, self.sysid, count)


def child_id(parent: str, ordinal: int) -> str:
    """Return the id of the `ordinal`-th job that the job `parent` added.

    It depends on nothing else, so that a parent that runs again adds the same children.
    It keeps the parent's time; the other 72 bits are a hash.
    """
    digest = hashlib.blake2b(f"{parent}#{ordinal}".encode(), digest_size=9).digest()
    tail = to_base64(int.from_bytes(digest, "big"), 12)
    return f"{parent[:7]}-{tail[:8]}-{tail[8:]}"
