"""Processes of a run: each ends with its whole group, and costs are those of all descendants."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP_S = 10.0
_TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, log: Path, env: Mapping[str, str], **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a group of its own, what it says going to `log`, and end that group."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=clean_environment() | dict(env),
            stderr=said,
            start_new_session=True,
            **({"stdin": subprocess.DEVNULL, "stdout": said} | more),
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group, which nobody else is in."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
    _signal(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # all of it has ended
        pass


def clean_environment() -> dict[str, str]:
    """Return ours without what would lead a program of another environment astray."""
    astray = ("PYTHON", "SLIMQ_", "PG", "NODE_PATH", "NODE_OPTIONS", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(astray)}


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of processes and their descendants, those that ended too."""
    return sum(_own_seconds(pid) for root in pids for pid in tree(root))


def _own_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # ended since; its parent has its time
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK


def memory_mb(pids: Iterable[int]) -> float:
    """Return the proportional set of processes and their descendants, in MB (10^6 bytes)."""
    return sum(_own_memory(pid) for root in pids for pid in tree(root))


def _own_memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                left += map(int, listed.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found
