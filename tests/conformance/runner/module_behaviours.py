"""Modules of WebAssembly as text, by what they do. The names are those of HTTP_BEHAVIOURS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

HASH = Path(__file__).parents[3] / "examples" / "functions" / "hash.wat"


def module(code: str, data: bytes = b"", more: str = "") -> str:
    """Return a module that runs `code`; `data` lies in memory from 1024 on. It can ``read`` all of
    standard input to 65536, giving its length, and ``write`` bytes from a place."""
    shown = "".join(f"\\{byte:02x}" for byte in data)
    return f"""(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  {more}
  (memory (export "memory") 40)
  (data (i32.const 1024) "{shown}")
  (func $read (result i32) (local $size i32)
    (loop $more
      (i32.store (i32.const 0) (i32.add (i32.const 65536) (local.get $size)))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $size (i32.add (local.get $size) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8))))
    (local.get $size))
  (func $write_to (param $stream i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (if (call $fd_write (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 8))
      (then unreachable)))
  (func $write (param $at i32) (param $size i32)
    (call $write_to (i32.const 1) (local.get $at) (local.get $size)))
  (func (export "_start") (local $at i32) (local $size i32) {code}))
"""


def saying(text: bytes) -> str:
    return module(f"(call $write (i32.const 1024) (i32.const {len(text)}))", text)


# Each line is echoed as it is; of one that begins with x the module dies.
ECHO = """
    (local.set $size (i32.add (i32.const 65536) (call $read)))
    (local.set $at (i32.const 65536))
    (block $done
      (loop $line
        (br_if $done (i32.ge_u (local.get $at) (local.get $size)))
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 120)) (then {deadly}))
        (call $write (i32.const 1024) (i32.const 4))
        (loop $byte
          (call $write (local.get $at) (i32.const 1))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $byte (i32.ne (i32.load8_u (i32.sub (local.get $at) (i32.const 1)))
                               (i32.const 10))))
        (br $line)))"""


def echo(deadly: str = "unreachable") -> str:
    return module(ECHO.format(deadly=deadly), b"200 ")


def forever(text: bytes) -> str:
    write = f"(call $write (i32.const 1024) (i32.const {len(text)}))" if text else ""
    return module(f"(loop $again {write} (br $again))", text)


# Of a batch of so many jobs.
MODULE_BEHAVIOURS: dict[str, Callable[[int], str]] = {
    "digest": lambda _: HASH.read_text(),
    "order": lambda _: echo(),
    "garbage": lambda n: saying(b"\xff\xfe 200\n200garbage\n999 no\n20\n\n" * n),
    "one_bad": lambda n: saying(b"200 fine\nwhat?\n" + b"200 fine\n" * (n - 2)),
    "too_few": lambda n: saying(b"200 fine\n" * (n - 1)),
    "too_many": lambda n: saying(b"200 fine\n" * (n + 3)),
    "nothing": lambda _: module(""),
    "statuses": lambda _: saying(b"102 later\n200 done\n422 no\n503 broken\n"),
    "children": lambda _: saying(
        b"#J: bill|for 0\n200\n#J: bill|\n#J: not legal\n# a log line\n200\n#J: log|end\n"
    ),
    "hang": lambda _: forever(b""),
    "drip": lambda _: forever(b"2"),
    "flood": lambda _: forever(b"200 flood\n" * 6000),
    "crash": lambda _: module("unreachable"),
}
