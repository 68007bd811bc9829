"""Workloads of a node with little or nothing to do."""

from __future__ import annotations

import json
import random
import time
from contextlib import closing
from pathlib import Path

import limits
from bench import Bench, tell
from load import Wire, add, lines, post
from node import Node, cpu_seconds
from receiver import Receiver
from result import Figure, Limit, Result, percentile

SAMPLES, TURN = 200, 20
PAUSE_S = (0.01, 0.09)  # between two samples: no two loops can fall into step
UNASKED_S = 0.02
REST_S, WATCH_S = 10.0, 20.0
_BASH = ("bash", "-c", 'read -r _; echo "200 $EPOCHREALTIME"')


def start_latency(bench: Bench) -> Result:
    """From the first byte of a one-line `POST /add` to the first byte of the request that the http
    handler gets, on a node that has nothing else to do.

    200 jobs, each sent 10 to 90 ms after the one before was done, on a connection that is open
    already. Nobody asks for the job in its first 20 ms: the node has this one thing to do. Both
    ends read CLOCK_MONOTONIC, which is one clock for all processes. The limit is the sum of what
    no way to do it can leave out: a write + fdatasync, an insert and a claim by apsw, and a round
    trip over loopback for the two ways of the data; measured in turns, 20 at a time. Also shown:
    the same for a command (bash, which says when it started).
    """
    times: list[float] = []
    bare: list[float] = []
    with bench.limits_folder() as folder, bench.node() as node, bench.receiver() as receiver:
        with closing(limits.OneByOne(folder, receiver.port)) as limit:
            for _ in range(bench.runs(SAMPLES // TURN)):
                times += start_times(node, receiver, TURN)
                bare += [1e3 * limit.seconds() for _ in range(TURN)]
        commands = _command_times(node, bench.runs(50))
    return Result(
        "start_latency",
        Figure(percentile(times, 50), "ms (p50)", 3, lower=True),
        [Limit(percentile(bare, 50), "fdatasync + insert + claim + round trip")],
        times,
        [
            Figure(percentile(times, 99), "ms", name="p99_ms"),
            Figure(percentile(bare, 99), "ms", name="limit_p99_ms"),
            Figure(percentile(commands, 50), "ms", name="exec_p50_ms"),
        ],
    )


def start_times(node: Node, receiver: Receiver, count: int) -> list[float]:
    """Return the ms from accept to handler start of some lone jobs."""
    node.put("timed", "http", receiver.url("/timed"))
    handler = Wire(receiver.port)
    handler.call(post("/times", b""))
    sent = [_lone_job(node, "timed", time.monotonic_ns)[0] for _ in range(count)]
    came = json.loads(handler.call(post("/times", b"")).body)
    handler.close()
    return [(end - start) / 1e6 for start, end in zip(sent, came, strict=True)]


def _command_times(node: Node, count: int) -> list[float]:
    node.put("command", "exec", list(_BASH))
    found = []
    for _ in range(count):
        start, result = _lone_job(node, "command", time.time_ns)
        found.append(1e3 * float(result) - start / 1e6)
    return found


def _lone_job(node: Node, jobtype: str, clock: object) -> tuple[int, str]:
    """Add a line after a pause, and wait until it is done; return when it was sent, and
    its result."""
    assert callable(clock)
    request = add(jobtype, lines(1))
    wire = Wire(node.port)
    time.sleep(random.uniform(*PAUSE_S))
    start = int(clock())
    id_ = json.loads(wire.call(request).body)["ids"][0]
    wire.close()
    time.sleep(UNASKED_S)
    job = node.call("GET", f"/jobs/{id_}?wait=30")
    if job["status"] != 200:
        raise RuntimeError(f"a job ended with {job}")
    return start, job["result"]


def idle(bench: Bench) -> Result:
    """CPU and memory of a node that has run 100 jobs, rested for 10 s, and is watched for 20 s.

    CPU is user and system time of the process, from /proc; memory is its resident set, all of it
    counted as its own. The limit is a bare uvloop + httptools server, watched in the same 20 s.
    Also shown: the proportional set, and the resident set after 100,000 jobs went through.
    """
    with bench.node() as node, bench.receiver() as receiver:
        node.put("warm", "http", receiver.url("/single"))
        _through(node, 100)
        time.sleep(bench.seconds(REST_S))
        pids = (node.process.pid, receiver.pid)
        seconds = bench.seconds(WATCH_S)
        before = [cpu_seconds(pid) for pid in pids]
        time.sleep(seconds)
        used = [cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
        cpu, bare_cpu = (100 * each / seconds for each in used)
        resident, proportional = _memory(node.process.pid)
        bare, _ = _memory(receiver.pid)
        node.put("warm", "http", receiver.url("/batch"), batch_size=100)
        _through(node, bench.jobs(100_000))
        time.sleep(bench.seconds(REST_S / 2))
        worked, _ = _memory(node.process.pid)
    tell(f"the bare server: {bare_cpu:.2f} % CPU, {bare:.1f} MB")
    return Result(
        "idle",
        Figure(resident, "MB resident", 60, lower=True),
        [Limit(bare, f"bare httptools server ({bare_cpu:.2f} % CPU)")],
        [resident],
        [
            Figure(cpu, "% CPU", 0.5, lower=True, name="CPU"),
            Figure(proportional, "MB", name="proportional set"),
            Figure(worked, "MB", name="resident after 100,000 jobs"),
        ],
    )


def _through(node: Node, count: int) -> None:
    node.log.skip()
    node.add("warm", lines(count))
    node.finishes(count)


def _memory(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional set of a process, in MB (10^6 bytes)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name] = int(value) * 1024 / 1e6
    return found["Rss:"], found["Pss:"]
