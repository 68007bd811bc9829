"""Workloads of stage 1 and 2: lines come in, and are on disk before the answer."""

from __future__ import annotations

import time
from contextlib import closing
from itertools import repeat
from statistics import median

import limits
from bench import Bench, in_turns
from load import Wire, add, call_all, for_seconds, lines
from node import Node
from result import Figure, Limit, Result, of_runs, percentile

BULK, RUNS = 100_000, 7
CALLERS, SECONDS = 32, 4.0
SETTLE_S = 0.05


def accept_bulk(bench: Bench) -> Result:
    """One `POST /add` of 100,000 lines of 100 bytes (newline included), from the first byte sent
    to the 202.

    The engine runs and nothing serves the jobtype, so each body is ingested after its answer;
    the next one is sent when the store has it, on a connection that is open already. The limit
    is a write and an fdatasync of the same bytes, measured in turns with the posts; HTTP, loopback
    and checksum come on top. `back to back` does not wait for the ingest: accept and ingest share
    the machine.
    """
    count, runs = bench.jobs(BULK), bench.runs(RUNS)
    body = lines(count)
    with bench.limits_folder() as folder, bench.node() as node:
        samples, raw = in_turns(
            runs,
            lambda: count / _post(node, body),
            lambda: count / limits.append_sync(folder, body),
        )
        with closing(Wire(node.port)) as wire:
            seconds = sum(wire.timed(add("bulk", body)) for _ in range(runs))
        node.await_stored()
        small = _rate_of_thousands(node, bench.seconds(2))
    return Result(
        "accept_bulk",
        of_runs(samples, "lines/s", 2_000_000),
        [Limit(median(raw), "write + fdatasync of the same bytes")],
        samples,
        [
            Figure(1e3 * count / median(samples), "ms", name="one_post_ms"),
            Figure(runs * count / seconds, "lines/s", name="back to back"),
            Figure(small, "lines/s", name="bodies of 1,000 lines, one caller"),
        ],
    )


def _post(node: Node, body: bytes) -> float:
    """Return the seconds until a body was accepted, once the node has stored it."""
    seconds = node.add("bulk", body)
    node.await_stored()
    time.sleep(SETTLE_S)
    return seconds


def _rate_of_thousands(node: Node, seconds: float) -> float:
    request = add("bulk", lines(1000))
    return 1000 * call_all(node.port, for_seconds(request, seconds), connections=1).rate


def accept_32(bench: Bench) -> Result:
    """32 callers, each on a connection of its own, each with one line of 100 bytes at a time: the
    next one is sent when the last was answered.

    All callers are one process on one loop; the engine ingests beside it. Three runs of 4 s in
    turns with the limits: the same callers before a bare uvloop + httptools server that answers
    202 to everything, and a write + fdatasync of 32 records at a time without any HTTP. The
    latencies are those of all requests. `node CPU` is the processor time of the node for one.
    """
    body = lines(1)
    request = add("one", body)
    latencies: list[float] = []

    def accept() -> float:
        requests = for_seconds(request, bench.seconds(SECONDS))
        calls = call_all(node.port, requests, connections=CALLERS)
        latencies.extend(calls.latencies)
        return calls.rate

    with bench.limits_folder() as folder, bench.node() as node, bench.receiver() as receiver:
        call_all(node.port, repeat(request, 1000), connections=CALLERS)  # to warm it up
        node.await_stored()
        cpu = node.cpu_seconds()
        samples, bare, groups = in_turns(
            bench.runs(3),
            accept,
            lambda: limits.bare_server(receiver.port, body, bench.seconds(2)),
            lambda: limits.group_commit(folder, bench.seconds(1)),
        )
        cpu = node.cpu_seconds() - cpu
    return Result(
        "accept_32",
        of_runs(samples, "requests/s", 15_000),
        [
            Limit(median(bare), "bare httptools server, same callers"),
            Limit(median(groups), "write + fdatasync of 32 records at a time"),
        ],
        samples,
        [
            Figure(1e3 * percentile(latencies, 50), "ms", name="p50_ms"),
            Figure(1e3 * percentile(latencies, 99), "ms", 20, lower=True, name="p99_ms"),
            Figure(1e3 * max(latencies), "ms", name="max_ms"),
            Figure(1e6 * cpu / len(latencies), "µs", name="node CPU, accept and ingest"),
        ],
    )
