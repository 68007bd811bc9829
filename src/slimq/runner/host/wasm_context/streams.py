"""Standard input, output and error of an instance. They are not those of WASI, which are files:
what a module writes is to be known at once."""

from __future__ import annotations

import ctypes
import os
from struct import Struct

import wasmtime

TYPE_CHECKING = False  # see python_context/values.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .lines import Lines

_WASI = "wasi_snapshot_preview1"
_VECTOR, _SIZE = Struct("<II"), Struct("<I")  # a place in memory with its length; a length
_VECTORS_MAX = 1024  # as POSIX has it
_DONE, _BAD_DESCRIPTOR, _FAULT = 0, 8, 21  # errors of WASI
_INPUT, _OUTPUT, _LOG = 0, 1, 2


class _OutOfBounds(Exception):
    """A module gave a place that is not in its memory."""


class Streams:
    """What instances read is given by `open`, and what they write goes to lines, and to the log."""

    def __init__(self) -> None:
        self._given = memoryview(b"")
        self._lines: Lines | None = None
        self._memory: wasmtime.Memory | None = None  # of the instance that runs

    def define(self, linker: wasmtime.Linker) -> None:
        words = wasmtime.FuncType([wasmtime.ValType.i32()] * 4, [wasmtime.ValType.i32()])
        linker.define_func(_WASI, "fd_read", words, self._read, access_caller=True)
        linker.define_func(_WASI, "fd_write", words, self._write, access_caller=True)

    def open(self, given: bytes, lines: Lines) -> None:
        """Begin with another instance."""
        self._given, self._lines, self._memory = memoryview(given), lines, None

    def _read(self, caller: Any, descriptor: int, vectors: int, count: int, told: int) -> int:
        if descriptor != _INPUT:
            return _BAD_DESCRIPTOR
        size, memory = 0, self._view(caller)
        try:
            for start, length in memory.places(vectors, count):
                part = bytes(self._given[:length])
                memory.write(start, part)
                self._given = self._given[length:]
                size += len(part)
            memory.write(told, _SIZE.pack(size))
        except _OutOfBounds:
            return _FAULT
        return _DONE

    def _write(self, caller: Any, descriptor: int, vectors: int, count: int, told: int) -> int:
        if descriptor not in (_OUTPUT, _LOG) or self._lines is None:
            return _BAD_DESCRIPTOR
        size, memory = 0, self._view(caller)
        try:
            for start, length in memory.places(vectors, count):
                part = memory.read(start, length)
                size += length
                if descriptor == _OUTPUT:
                    self._lines.take(part)
                else:
                    _log(part)
            memory.write(told, _SIZE.pack(size))
        except _OutOfBounds:
            return _FAULT
        return _DONE

    def _view(self, caller: Any) -> _View:
        if self._memory is None:
            self._memory = caller["memory"]
        return _View(caller, self._memory)


class _View:
    """The memory of an instance during one call, at where it lies in ours: a third of the time
    that the ways of wasmtime take. Every place is checked here. Addresses come signed."""

    def __init__(self, caller: Any, memory: Any) -> None:
        self._base = ctypes.addressof(memory.data_ptr(caller).contents)
        self._size = memory.data_len(caller)

    def places(self, vectors: int, count: int) -> Iterator[tuple[int, int]]:
        """Yield the places, with their lengths, that a vector of WASI names."""
        if not 0 <= count <= _VECTORS_MAX:
            raise _OutOfBounds
        return _VECTOR.iter_unpack(self.read(vectors, _VECTOR.size * count))

    def read(self, start: int, length: int) -> bytes:
        return ctypes.string_at(self._place(start, length), length)

    def write(self, start: int, content: bytes) -> None:
        ctypes.memmove(self._place(start, len(content)), content, len(content))

    def _place(self, start: int, length: int) -> int:
        start &= 0xFFFFFFFF
        if start + length > self._size:
            raise _OutOfBounds
        return int(self._base) + start


def _log(part: bytes) -> None:
    while part:
        part = part[os.write(1, part) :]
