"""Warm contexts without a node around them: what the runner and the sandbox cost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import uvloop

from slimq.core.handler import Handler, parse_options
from slimq.core.job import Batch, Job
from slimq.runner.function import FunctionRunner
from slimq.runner.programs import Program, find_programs
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups

LINE = b"x" * 100
RATE_S = 1.0


class Alone(NamedTuple):
    """`rate_100` and `rate_1000` are jobs a second in batches of so many."""

    round_trip_us: float
    cold_start_ms: float
    rate_100: float
    rate_1000: float


def measure(lang: str, source: str, folder: Path, trips: int, starts: int) -> Alone:
    """Run a function with nothing around it but its sandbox."""
    return uvloop.run(_measure(lang, source, folder, trips, starts))


def runs_here(lang: str) -> bool:
    return isinstance(find_programs()[lang], Program)


async def _measure(lang: str, source: str, folder: Path, trips: int, starts: int) -> Alone:
    runner = FunctionRunner(Sandbox(ControlGroups()), folder, memory_max=1 << 30, idle_s=60.0)
    try:
        cold = [await _timed(runner, _batch(lang, source, 1, version)) for version in range(starts)]
        warm = _batch(lang, source, 1, starts)
        await runner.run(warm)
        round_trips = [await _timed(runner, warm) for _ in range(trips)]
        rates = [await _rate(runner, _batch(lang, source, size, starts)) for size in (100, 1000)]
        return Alone(1e6 * median(round_trips), 1e3 * median(cold), *rates)
    finally:
        await runner.close()


async def _timed(runner: FunctionRunner, batch: Batch) -> float:
    start = time.perf_counter()
    ran = await runner.run(batch)
    seconds = time.perf_counter() - start
    if any(result.status != 200 for result in ran.results):
        raise RuntimeError(f"not all jobs ended OK: {ran.results[0]}")
    await asyncio.sleep(0)
    return seconds


async def _rate(runner: FunctionRunner, batch: Batch) -> float:
    seconds, count = 0.0, 0
    while seconds < RATE_S:
        seconds += await _timed(runner, batch)
        count += len(batch.jobs)
    return count / seconds


def _batch(lang: str, source: str, count: int, version: int) -> Batch:
    handler = Handler(
        client="*",
        jobtype="bench",
        version=version,
        lang=lang,
        body=source,
        options=parse_options(lang, {}),
        written={},
    )
    jobs = [Job(f"0000000-benchAAA-{n:04}", 1, 0, 0, 0, LINE) for n in range(count)]
    return Batch("main/bench", handler, jobs)
