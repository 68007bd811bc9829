"""Processes that outlived the node that started them, because it was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_ROUNDS = 10  # a process that is being killed may still start others


def kill_leftovers(mark: bytes) -> int:
    """Kill every process that was started with `mark`, ``NAME=value``, in its environment,
    and return how many that were. Processes of other users are passed over. Linux only.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")} - killed
        marked = {pid for pid in found if _kill_if_marked(pid, mark)}
        if not marked:
            break
        killed |= marked
    return len(killed)


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    """The descriptor makes sure that it is the same process that is looked at and killed."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # it ended, or is a thread's number
        return False
    try:
        if mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:  # it ended meanwhile, or is another user's
        return False
    finally:
        os.close(process)
    return True
