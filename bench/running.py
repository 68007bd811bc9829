"""Workloads of the whole way: lines come in, handlers run them, and they are done."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import limits
from bench import Bench, in_turns, tell
from contexts import measure, runs_here
from load import lines
from node import Node
from result import Figure, Limit, Result, of_runs

FUNCTION = "def handler(event, context): return None\n"
SCRIPTS = {
    "node": "exports.handler = () => {};\n",
    "deno": "export const handler = () => {};\n",
    "wasm": Path(__file__).parents[1].joinpath("examples/functions/hash.wat").read_text(),
}
COLD_MS = {"node": 150}
TRIP_US = {"wasm": 5_000}
COMMAND = ("sed", "s/^.*/200/")
EXEC_BATCH = 1000
HTTP_BATCH = 100
RUNS = 3
SETTLE_S = 0.2  # what the last run left to do is done
_ROWS = "apsw: insert, claim, finish the same rows"


def exec_batch(bench: Bench) -> Result:
    """100,000 jobs of 100 bytes in one `POST /add`, run by the command `sed 's/^.*/200/'` in
    batches of 1,000: from the first byte sent until the last one is done in the store.

    The node has the handler before the jobs come, so that accepting, ingesting, running and
    finishing overlap, as they do in use. Each run is another jobtype of the same node. The limits,
    in turns with the runs, are the same rows inserted, claimed and finished by apsw in
    transactions of 1,000, and the same command with the same batches, as many at a time as the
    node runs. `node CPU` is the processor time of the node, without its commands, for one job.
    """
    body = lines(bench.jobs(100_000))
    at_once = 2 * (os.cpu_count() or 1)
    with bench.limits_folder() as folder, bench.node() as node:
        way = Way(node, body, "exec", list(COMMAND))
        samples, rows, spawned = in_turns(
            bench.runs(RUNS),
            lambda: way.rate(batch_size=EXEC_BATCH),
            lambda: limits.row_batches(folder, body),
            lambda: limits.spawn_batches(COMMAND, body, EXEC_BATCH, at_once),
        )
        cpu = median(way.cpu)
        default = way.rate()
    return Result(
        "exec_batch",
        of_runs(samples, "jobs/s", 30_000),
        [
            Limit(median(rows), _ROWS),
            Limit(median(spawned), "fork + exec of the same command with the same batches"),
        ],
        samples,
        [
            Figure(cpu, "µs", name="node CPU"),
            Figure(default, "jobs/s", name="batches of 100, the default (one run)"),
        ],
    )


def function_batch(bench: Bench) -> Result:
    """100,000 jobs of 100 bytes in one `POST /add`, run by a Python function in batches of 1,000,
    in its sandbox: from the first byte sent until the last one is done in the store.

    The context is warm before the first run. The limits, in turns with the runs, are the same rows
    inserted, claimed and finished by apsw in transactions of 1,000, and the same function called in
    a loop with the same lines. `node CPU` is the processor time of the node, without its contexts,
    for one job. `one job and back` is that of a warm context without a node around it.
    """
    body = lines(bench.jobs(100_000))
    with bench.limits_folder() as folder, bench.node() as node:
        way = Way(node, body, "python", FUNCTION)
        way.rate(batch_size=EXEC_BATCH)
        samples, rows, called = in_turns(
            bench.runs(RUNS),
            lambda: way.rate(batch_size=EXEC_BATCH),
            lambda: limits.row_batches(folder, body),
            lambda: limits.calls(FUNCTION, body),
        )
        cpu = median(way.cpu)
        hundred = way.rate(batch_size=HTTP_BATCH)
    with bench.limits_folder() as folder:
        alone = measure("python", FUNCTION, folder, bench.jobs(3_000), bench.runs(20))
        others = list(_other_languages(bench, folder))
    return Result(
        "function_batch",
        of_runs(samples, "jobs/s", 150_000),
        [
            Limit(median(rows), _ROWS),
            Limit(median(called), "the same function called in a loop"),
        ],
        samples,
        [
            Figure(cpu, "µs", name="node CPU"),
            Figure(hundred, "jobs/s", 80_000, name="batches of 100 (one run)"),
            Figure(alone.round_trip_us, "µs", 100, lower=True, name="one job and back, warm, p50"),
            Figure(alone.cold_start_ms, "ms", 60, lower=True, name="cold start, sandboxed, p50"),
            Figure(alone.rate_100, "jobs/s", name="context alone, batches of 100"),
            Figure(alone.rate_1000, "jobs/s", name="context alone, batches of 1,000"),
            *others,
        ],
    )


def _other_languages(bench: Bench, folder: Path) -> Iterator[Figure]:
    """A context of each language that this machine runs, alone. An instance of a module is new for
    each batch, so that one job and back is its start."""
    for lang, source in SCRIPTS.items():
        if runs_here(lang):
            alone = measure(lang, source, folder, bench.jobs(1_000), bench.runs(10))
            cold, trip, rate = COLD_MS.get(lang), TRIP_US.get(lang), alone.rate_1000
            start, back = f"{lang}: cold start, sandboxed, p50", f"{lang}: one job and back, p50"
            yield Figure(alone.cold_start_ms, "ms", cold, True, start)
            yield Figure(alone.round_trip_us, "µs", trip, True, back)
            yield Figure(rate, "jobs/s", name=f"{lang}: context alone, batches of 1,000")


def http_single(bench: Bench) -> Result:
    """20,000 jobs of 100 bytes in one `POST /add`, each in a POST of its own to a bare httptools
    server on loopback: from the first byte sent until the last one is done in the store.

    Signed as always, at most 32 requests at a time (`run.connections_per_host`). The limits, in
    turns with the runs, are a bare client that posts the same data to the same server on 32
    connections, and the same rows by apsw.
    """
    return _http(bench, "http_single", bench.jobs(20_000), "/single", 1, 4_000)


def http_batch100(bench: Bench) -> Result:
    """100,000 jobs of 100 bytes in one `POST /add`, in batches of 100 to a bare httptools server
    that answers a line a job: from the first byte sent until the last one is done in the store.

    The limits, in turns with the runs, are a bare client that posts the same batches to the same
    server on 32 connections, and the same rows by apsw.
    """
    return _http(bench, "http_batch100", bench.jobs(100_000), "/batch", HTTP_BATCH, 30_000)


def _http(bench: Bench, name: str, count: int, path: str, batch_size: int, floor: float) -> Result:
    body = lines(count)
    with bench.limits_folder() as folder, bench.node() as node, bench.receiver() as receiver:
        way = Way(node, body, "http", receiver.url(path))
        samples, bare, rows = in_turns(
            bench.runs(RUNS),
            lambda: way.rate(batch_size=batch_size),
            lambda: limits.bare_handler(receiver.port, path, body, count, batch_size),
            lambda: limits.row_batches(folder, body),
        )
    return Result(
        name,
        of_runs(samples, "jobs/s", floor),
        [
            Limit(median(bare), "bare httptools server and client, same bodies"),
            Limit(median(rows), _ROWS),
        ],
        samples,
        [Figure(median(way.cpu), "µs", name="node CPU")],
    )


class Way:
    """The whole way of the lines of `body` on a node, each time as another jobtype. `cpu`
    has the processor time of the node for each run, in µs a job."""

    def __init__(self, node: Node, body: bytes, lang: str, handler: Any) -> None:
        self._node, self._body = node, body
        self._lang, self._handler = lang, handler
        self._numbers = itertools.count()
        self.cpu: list[float] = []

    def rate(self, **options: Any) -> float:
        """Return the jobs a second from accept to done."""
        node, count = self._node, self._body.count(b"\n")
        jobtype = f"run{next(self._numbers)}"
        node.put(jobtype, self._lang, self._handler, **options)
        time.sleep(SETTLE_S)
        node.log.skip()
        cpu, start = node.cpu_seconds(), time.time()
        node.add(jobtype, self._body)
        seconds = node.finishes(count)[-1].at - start
        self.cpu.append(1e6 * (node.cpu_seconds() - cpu) / count)
        counts = node.type(jobtype)
        if counts["ok"] != count:
            raise RuntimeError(f"{counts['ok']} of {count} jobs ended OK")
        tell(f"{jobtype}: {count / seconds:,.0f} jobs/s")
        return count / seconds
