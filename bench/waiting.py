"""Workloads with much that waits: what it costs those that run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import limits
from bench import Bench, tell
from load import add, call_all, lines
from node import Node, time_of
from receiver import Receiver
from resting import start_times
from result import Figure, Limit, Result, of_runs, percentile

FEW, MANY, POST = 10_000, 1_000_000, 100_000
TYPES, TYPE_RUNS = 10_000, 5
RUNS = 9
# What is in flight must be little beside FEW jobs, or the end of a backlog flatters.
IN_FLIGHT = {"batch_size": 100, "concurrency": 8}


class Drained(NamedTuple):
    """Jobs a second, and the processor time of the node for one job."""

    rate: float
    cpu_us: float


def drain_backlog(bench: Bench) -> Result:
    """How fast 10,000 jobs are drained when 1,000,000 wait, against when only they wait.

    Two nodes live beside each other and take turns, so that a noisy neighbour hits both. On each,
    the engine is stopped, the jobs are in the store, the engine is started, and the time until
    10,000 are done is taken; the small backlog is filled up again in between, the large one only
    shrinks by what was drained. Both do the same work: 10,000 claims, calls and finishes, in
    batches of 100 to the bare server, at most 8 at a time, so that the idle tail of the small
    backlog is at most 8 % of its run. A run is short: the figure is the median of 9 pairs. Also
    shown: 100,000 at one go out of the large one, and the processor time of the node for one job,
    which no neighbour disturbs. The limit is the same comparison for bare apsw.
    """
    few, many = bench.jobs(FEW), bench.jobs(MANY)
    runs = bench.runs(RUNS)
    with bench.node() as small, bench.node() as large, bench.receiver() as receiver:
        for node in (small, large):
            prepare(node, receiver)
        tell(f"filling up to {many:,}")
        fill(large, many)
        pairs = []
        for _ in range(runs):
            fill(small, few)
            pairs.append((drain(small, few), drain(large, few)))
        steady = drain(large, bench.jobs(POST))
    tell("the same with bare apsw")
    with bench.limits_folder() as folder:
        bare = _bare_drain(folder, few, many)
    samples = [100 * b.rate / a.rate for a, b in pairs]
    of_few, of_many = zip(*pairs, strict=True)
    return Result(
        "drain_backlog",
        of_runs(samples, "% of the rate with 10,000", 80),
        [Limit(100 * bare, "the same comparison by bare apsw")],
        samples,
        [
            *figures(of_few, "10,000 of 10,000"),
            *figures(of_many, "10,000 of 1,000,000"),
            *figures([steady], "100,000 of 1,000,000 (one run)"),
        ],
    )


def types_10000(bench: Bench) -> Result:
    """What 10,000 other types that wait cost a type that runs: the time to drain 100,000 jobs of
    one type beside them, against the time without them.

    The others are 100 jobtypes of 100 clients without handler, one job each. Two nodes take turns,
    as above; batches of 100 to the bare server. The limit is the same comparison for bare apsw.
    Also shown: the start latency beside them; the drain of 10,000 types that all have 10 jobs and a
    handler; and 10,000 jobs of 10,000 types against 10,000 of one type, both one by one, where the
    fair turn of 10,000 clients costs a claim for each job.
    """
    count, types = bench.jobs(100_000), bench.jobs(TYPES)
    with bench.node() as alone, bench.node() as beside, bench.receiver() as receiver:
        for node in (alone, beside):
            prepare(node, receiver)
        _spread(beside, [f"client{n % 100}/other{n // 100}" for n in range(types)], 1)
        pairs = []
        for _ in range(bench.runs(TYPE_RUNS)):
            for node in (alone, beside):
                fill(node, count)
            pairs.append((drain(alone, count), drain(beside, count)))
        beside.start()
        starts = start_times(beside, receiver, bench.runs(50))
        many = _drain_types(alone, receiver, types, 10, batch_size=100)
        each = _drain_types(alone, receiver, types, 1, batch_size=1)
        one = _drain_one_by_one(alone, receiver, types)
    with bench.limits_folder() as folder:
        bare = _bare_beside(folder, count, types)
    samples = [a.rate / b.rate for a, b in pairs]
    of_one, of_many = zip(*pairs, strict=True)
    return Result(
        "types_10000",
        of_runs(samples, "times the time of one type", 2, lower=True),
        [Limit(bare, "the same comparison by bare apsw")],
        samples,
        [
            *figures(of_one, "one type alone"),
            *figures(of_many, "beside 10,000 others"),
            Figure(percentile(starts, 50), "ms", name="start_beside_them_p50_ms"),
            *figures([many], "10,000 types with 10 jobs each (one run)"),
            *figures([each], "10,000 types with 1 job each, one by one (one run)"),
            *figures([one], "1 type with 10,000 jobs, one by one (one run)"),
        ],
    )


def prepare(node: Node, receiver: Receiver) -> None:
    node.put("drain", "http", receiver.url("/batch"), **IN_FLIGHT)
    node.stop()


def fill(node: Node, count: int, jobtype: str = "drain") -> None:
    """Add so many jobs, and wait until all are in the store."""
    waiting = node.type(jobtype)["waiting"]
    for start in range(0, count, POST):
        node.add(jobtype, lines(min(POST, count - start)))
        node.await_stored()
    node.await_type(jobtype, "waiting", waiting + count)


def drain(node: Node, count: int) -> Drained:
    """Start the engine until `count` jobs are done, then stop it."""
    cpu, ran = node.cpu_seconds(), node.finished()
    start = node.start()
    rate = count / (time_of(node.finishes(count), count) - start)
    node.stop()  # some more jobs than that were in flight
    cpu, ran = node.cpu_seconds() - cpu, node.finished() - ran
    tell(f"{count:,} jobs at {rate:,.0f}/s")
    return Drained(rate, 1e6 * cpu / ran)


def figures(drained: Sequence[Drained], name: str) -> list[Figure]:
    return [
        Figure(median([each.rate for each in drained]), "jobs/s", name=name),
        Figure(median([each.cpu_us for each in drained]), "µs", name=f"node CPU, {name}"),
    ]


def _spread(node: Node, types: list[str], each: int) -> None:
    """Add `each` jobs to each type."""
    body = lines(each)
    pairs = (type_.split("/") for type_ in types)
    requests: Iterator[bytes] = (add(jobtype, body, client) for client, jobtype in pairs)
    call_all(node.port, requests, connections=32)
    node.await_stored()


def _drain_types(node: Node, receiver: Receiver, types: int, each: int, batch_size: int) -> Drained:
    """Drain the jobs of many clients that share a handler."""
    jobtype = f"many{each}"
    path = "/batch" if batch_size > 1 else "/single"
    node.put(jobtype, "http", receiver.url(path), batch_size=batch_size)
    _spread(node, [f"client{n}/{jobtype}" for n in range(types)], each)
    return drain(node, types * each)


def _drain_one_by_one(node: Node, receiver: Receiver, count: int) -> Drained:
    node.put("single", "http", receiver.url("/single"))
    fill(node, count, "single")
    return drain(node, count)


def _bare_drain(folder: Path, few: int, many: int) -> float:
    """Return the rate with many rows that wait over that with few, in turns."""
    small, large = limits.Rows(folder / "small.db"), limits.Rows(folder / "large.db")
    large.insert(lines(many).splitlines())
    ratios = []
    for _ in range(RUNS):
        small.insert(lines(few).splitlines())
        ratios.append(small.drain(few) / large.drain(few))
    small.close()
    large.close()
    return median(ratios)


def _bare_beside(folder: Path, count: int, types: int) -> float:
    """Return the time beside rows of other types over that without them, in turns."""
    alone, beside = limits.Rows(folder / "alone.db"), limits.Rows(folder / "beside.db")
    beside.insert(lines(types).splitlines(), type_id=2, per_type=1)
    ratios = []
    for _ in range(TYPE_RUNS):
        seconds = []
        for table in (alone, beside):
            table.insert(lines(count).splitlines())
            seconds.append(table.drain(count))
        ratios.append(seconds[1] / seconds[0])
    alone.close()
    beside.close()
    return median(ratios)
