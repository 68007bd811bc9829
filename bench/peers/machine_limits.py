"""What the machine does in the same run, when nothing but the unavoidable is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path

import limits
from load import add, call_all, for_seconds, lines
from peers.workloads import CALL_S, CALLERS, LONE, Fields, most, quantiles, timed
from receiver import receiving
from running import COMMAND

LIMIT = "limit: "
ROWS = 100_000
BATCH = 1000


def append(folder: Path, scale: float) -> Iterator[Fields]:
    """W1: a write and fdatasync of the same bytes."""
    body = lines(most(ROWS, scale))
    count = body.count(b"\n")
    fields = timed(count, limits.append_sync(folder, body))
    yield _named("write + fdatasync", "fdatasync", f"{count:,} lines") | fields


def serve(folder: Path, scale: float) -> Iterator[Fields]:
    """W2: a bare uvloop + httptools server that keeps nothing, and as many callers; and records
    that share a write and an fdatasync."""
    request, seconds = add("any", lines(1)), CALL_S * scale
    with receiving() as receiver:
        for callers in CALLERS:
            call_all(receiver.port, repeat(request, callers), connections=callers)
            sent = for_seconds(request, seconds)
            calls = call_all(receiver.port, sent, connections=callers)
            each = [1e3 * latency for latency in calls.latencies]
            fields = timed(len(each), calls.seconds) | quantiles(each)
            yield _named("bare HTTP server", "none", "1", f"W2-{callers}") | fields
    count = round(seconds * limits.group_commit(folder, seconds))
    named = _named("group commit", "fdatasync", f"{limits.GROUP} records", f"W2-{limits.GROUP}")
    yield named | timed(count, seconds)


def run(folder: Path, scale: float) -> Iterator[Fields]:
    """W3: the same rows inserted, claimed and finished by apsw; and the same command with the same
    batches."""
    count = most(ROWS, scale)
    data, at_once = lines(count), 2 * (os.cpu_count() or 1)
    rows = limits.row_batches(folder, data)
    named = _named("SQLite: insert, claim, finish", "WAL, synchronous=NORMAL", f"{BATCH:,}")
    yield named | timed(count, count / rows)
    spawned = limits.spawn_batches(COMMAND, data, BATCH, at_once)
    yield _named("fork + exec", "none", f"command, {BATCH:,}") | timed(count, count / spawned)


def start(folder: Path, scale: float) -> Iterator[Fields]:
    """W4: an fdatasync, an insert, a claim and a round trip, which no way can leave out."""
    with receiving() as receiver, closing(limits.OneByOne(folder, receiver.port)) as one:
        each = [1e3 * one.seconds() for _ in range(most(LONE, scale))]
    named = _named("fdatasync, insert, claim, round trip", "fdatasync", "1")
    yield named | {"n": len(each)} | quantiles(each)


LIMITS: dict[str, Callable[[Path, float], Iterator[Fields]]] = {
    "W1": append,
    "W2": serve,
    "W3": run,
    "W4": start,
}


def _named(name: str, durability: str, batch: str, workload: str = "") -> Fields:
    of = {"workload": workload} if workload else {}
    named = {"system": f"{LIMIT}{name}", "durability": durability, "batch": batch, "version": ""}
    return named | of
