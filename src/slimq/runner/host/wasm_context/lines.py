"""What a module writes to its standard output: the same lines as those of a command.

::

    <status>[ <text>]         result of the next job of the batch
    #J: <jobtype>|<data>      a new job of the same client
    #...                      a line of the log
"""

from __future__ import annotations

import os
import re

from python_context.answer import CHILD, ERROR, EXTRA, RESULT, Answer, record
from python_context.values import to_text

_OUTPUT_MAX = 64 * 1024 * 1024  # of one batch, as for what is printed
_LINE_MAX = 2 * 1024 * 1024  # more of a line is dropped: neither a result nor a job has so much
_RESULT_MAX = 64 * 1024
_SHOWN_MAX = 120  # bytes of a line that an error quotes
_NO_RESULT = 502
_CHILD_MARK = b"#J:"
_LINE = re.compile(rb"([1245]\d\d)(?:[ \r](.*))?", re.DOTALL)


class TooMuch(Exception):
    """An instance wrote without end."""


class Lines:
    """Puts each result into the answer when its line is whole. That of the last job waits for the
    end: jobs that are added behind it are its own."""

    def __init__(self, answer: Answer, count: int) -> None:
        self.said = 0  # jobs that have a result
        self._answer, self._count = answer, count
        self._rest = bytearray()
        self._size = 0
        self._children: list[bytes] = []
        self._last = b""
        self._extra = 0

    def take(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > _OUTPUT_MAX:
            raise TooMuch(f"more than {_OUTPUT_MAX // 1024 // 1024}MiB of output")
        *whole, rest = part.split(b"\n")
        if whole:
            whole[0] = bytes(self._rest) + whole[0]
            for line in whole:
                self._line(line)
            self._rest = bytearray(rest)
        elif len(self._rest) < _LINE_MAX:
            self._rest += rest

    def end(self) -> None:
        """The instance has ended, well or not."""
        if self._rest:
            self._line(bytes(self._rest))
        if self._last:
            self._put(self._last)
        if self._extra:
            self._answer.put(record(EXTRA, 0, b"%d" % self._extra))

    def _line(self, line: bytes) -> None:
        if line.startswith(_CHILD_MARK):
            self._children.append(record(CHILD, 0, line[len(_CHILD_MARK) :]))
        elif line.startswith(b"#"):
            os.write(1, line + b"\n")
        elif self.said == self._count:
            self._extra += 1
        else:
            self.said += 1
            if self.said == self._count:
                self._last = _result(line)
            else:
                self._put(_result(line))

    def _put(self, said: bytes) -> None:
        records = b"".join(self._children) + said
        self._children.clear()
        if not self._answer.has_room(len(records)):
            records = _failed("the jobs of a batch say too much together")
        self._answer.put(records)


def _result(line: bytes) -> bytes:
    """Return the records of a result line."""
    found = _LINE.fullmatch(line)
    if found is None:
        return _failed(f"malformed result line: {_quoted(line)}")
    text = (found[2] or b"").strip(b" \r")
    said: bytes = record(RESULT, int(found[1]), text[:_RESULT_MAX])
    return said


def _failed(why: str) -> bytes:
    said: bytes = record(ERROR, 0, to_text(why)) + record(RESULT, _NO_RESULT)
    return said


def _quoted(line: bytes) -> str:
    text = repr(line[:_SHOWN_MAX].decode("utf-8", "backslashreplace"))
    return text + " ..." if len(line) > _SHOWN_MAX else text
