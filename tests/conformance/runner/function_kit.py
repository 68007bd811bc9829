"""What tests of functions share."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from runner_kit import FunctionBench, on_loop, run_once

from slimq.core.job import Batch, Ran
from slimq.runner.function import FunctionRunner
from slimq.runner.split import run_split


def statuses(ran: Ran) -> list[int]:
    return [result.status for result in ran.results]


def texts(ran: Ran) -> list[str]:
    return [result.text.decode() for result in ran.results]


def errors(ran: Ran) -> list[str]:
    return [result.error for result in ran.results]


def with_runner(
    functions: FunctionBench, work: Callable[[FunctionRunner], Awaitable[Any]], **changes: Any
) -> Any:
    """Return what `work` with a runner returns; the runner is closed."""

    async def whole() -> Any:
        runner = functions.runner(**changes)
        try:
            return await work(runner)
        finally:
            await runner.close()

    return on_loop(whole)


def run(functions: FunctionBench, source: str | dict[str, Any], *datas: bytes, **more: Any) -> Ran:
    return run_once(functions.runner(), functions.of(source, list(datas) or [b"x"], **more))


def run_in_parts(functions: FunctionBench, batch: Batch) -> Ran:
    ran: Ran = with_runner(functions, lambda runner: run_split(runner.run, batch))
    return ran


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; fail when that takes too long."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def children() -> list[str]:
    """The processes that this one started and that are there, reaped or not."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def is_gone(pid: str) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
