"""A handler of lang exec that does what its argument says. The names are those of
HTTP_BEHAVIOURS in runner_kit.py."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time

LINES = sys.stdin.buffer.read().split(b"\n")[:-1]
N = len(LINES)


def say(*lines: bytes) -> None:
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    sys.stdout.buffer.flush()


def flood() -> None:
    while True:
        os.write(1, b"200 flood\n" * 6000)


def drip() -> None:
    while True:
        os.write(1, b"2")
        time.sleep(0.02)


BEHAVIOURS = {
    "digest": lambda: say(
        *(b"200 %d %s" % (len(line), hashlib.sha256(line).hexdigest().encode()) for line in LINES)
    ),
    "order": lambda: say(*(b"200 " + line for line in LINES)),
    "garbage": lambda: say(*[b"\xff\xfe 200", b"200garbage", b"999 no", b"20", b""] * N),
    "one_bad": lambda: say(b"200 fine", b"what?", *[b"200 fine"] * (N - 2)),
    "too_few": lambda: say(*[b"200 fine"] * (N - 1)),
    "too_many": lambda: say(*[b"200 fine"] * (N + 3)),
    "nothing": lambda: None,
    "statuses": lambda: say(b"102 later", b"200 done", b"422 no", b"503 broken"),
    "children": lambda: say(
        b"#J: bill|for 0",
        b"200",
        b"#J: bill|",
        b"#J: not legal",
        b"# a log line",
        b"200",
        b"#J: log|end",
    ),
    "hang": signal.pause,
    "drip": drip,
    "flood": flood,
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}

BEHAVIOURS[sys.argv[1]]()
