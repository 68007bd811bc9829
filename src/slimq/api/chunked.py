r"""Chunked bodies (RFC 9112 7.1), read strictly and to the exact last byte.

    *( size [ ";" extension ] CRLF data CRLF ) "0" [ ";" extension ] CRLF *( trailer CRLF ) CRLF

Extensions and trailers are checked, bounded and dropped.
"""

from __future__ import annotations

import re

from slimq.core.limits import HEAD_MAX
from slimq.errors import BadBody

_LINE_MAX = 128  # a size and its extension; signed uploads need about 90
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*+)?\r\n")
_SIZE_SO_FAR = re.compile(rb"[0-9A-Fa-f]{0,15}(?:(?<=.);[\t\x20-\x7e]*+)?(?:(?<=.)\r)?")
_TRAILER_LINE = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n"
_TRAILERS = re.compile(rb"(?:" + _TRAILER_LINE + rb")*+\r\n")


class ChunkedReader:
    """Decodes one body. After `feed`, `done` says whether it is complete."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""  # bytes that are not understood yet
        self._left = 0  # bytes of the current chunk to come
        self._between = False  # the CR LF behind the data of a chunk is due
        self._trailing = False  # the last chunk was seen

    def feed(self, data: bytes, start: int) -> tuple[list[bytes], int]:
        """Return the decoded pieces of `data` from `start` on, and the index of the first
        byte behind the body, or the length of `data` while it goes on. Raises BadBody."""
        end = len(data)
        before = start - len(self._rest)  # where the first byte looked at would stand in `data`
        data = self._rest + data[start:]
        pieces: list[bytes] = []
        at = 0
        while not self.done:
            moved = self._step(data, at, pieces)
            if moved == at:
                break
            at = moved
        self._rest = b"" if self.done else data[at:]
        return pieces, (before + at if self.done else end)

    def _step(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Understand one element at `at`; return where the next one starts, or `at` when
        it has not arrived."""
        if self._left:
            piece = data[at : at + self._left]
            if piece:
                pieces.append(piece)
                self._left -= len(piece)
                self._between = not self._left
            return at + len(piece)
        if self._between:
            return self._read_end_of_chunk(data, at)
        return self._read_trailers(data, at) if self._trailing else self._read_size(data, at)

    def _read_end_of_chunk(self, data: bytes, at: int) -> int:
        found = data[at : at + 2]
        if found == b"\r\n":
            self._between = False
            return at + 2
        if found not in (b"", b"\r"):
            raise BadBody("a chunk is longer or shorter than its size says")
        return at

    def _read_size(self, data: bytes, at: int) -> int:
        line = _SIZE.match(data, at, at + _LINE_MAX)
        if line is not None:
            self._left = int(line[1], 16)
            self._trailing = not self._left
            return line.end()
        if len(data) - at >= _LINE_MAX or _SIZE_SO_FAR.fullmatch(data, at) is None:
            raise BadBody("a chunk starts with its size in hexadecimal and CR LF")
        return at

    def _read_trailers(self, data: bytes, at: int) -> int:
        end = _TRAILERS.match(data, at, at + HEAD_MAX)
        if end is not None:
            self.done = True
            return end.end()
        finished = data.startswith(b"\r\n", at) or b"\r\n\r\n" in data[at : at + HEAD_MAX]
        if finished or len(data) - at >= HEAD_MAX:
            raise BadBody("the trailers of a chunked body are malformed or too long")
        return at
