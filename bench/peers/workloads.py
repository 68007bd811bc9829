"""What every system does alike. Each load is bounded in count and in time."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from peers.session import Session
from result import percentile, rounded

BULK_S, BULK_MAX = 1.5, 500_000
CALL_S = 1.0
CALLERS = (1, 32, 256)
FILL_S, DRAIN_S = 20.0, 10.0
LONE, PAUSE_S, LONE_S = 100, (0.005, 0.03), 5.0
MANY, MANY_S, PROBE_S, DAY_S = 1_000_000, 45.0, 5.0, 86_400
WINDOWS, WINDOW, WINDOW_S = 5, 20_000, 2.0
START_S = 30.0  # until the first job runs: interpreters and pools start
REST_S, WATCH_S = 3.0, 5.0
BOTH_CALLERS, BOTH_SHARE, BOTH_S, ALL_S = 32, 0.7, 60.0, 60.0

Fields = dict[str, Any]
Measure = Callable[[Session, float], Iterator[Fields]]


class LeftOut(RuntimeError):
    """A system cannot do a workload in the time that it may take."""


def bulk(session: Session, scale: float) -> Iterator[Fields]:
    """W1, bulk accept: jobs of 99 bytes by the fastest call that the documentation has, from the
    call to its answer, for 1.5 s and at most 500,000 of them. No worker runs."""
    before = session.all_seconds()
    done = session.bulk(most(BULK_MAX, scale), BULK_S * scale)
    cpu = session.all_seconds() - before
    fields = timed(done["count"], done["seconds"]) | costing(cpu, done["count"])
    yield fields | taking(session)


def single(session: Session, scale: float) -> Iterator[Fields]:
    """W2, single accept: 1, 32 and 256 callers, each the next job when its last was answered, for
    1 s each. The callers are the peer's own client library in two processes: threads where it
    blocks, tasks on uvloop or Node.js where it does not. No worker runs."""
    for callers in CALLERS:
        session.call(callers, 0.2 * scale)  # connections are made, and caches warm
        before = session.all_seconds()
        answers = session.call(callers, CALL_S * scale)
        cpu = session.all_seconds() - before
        each = [us / 1e3 for answer in answers for us in answer["us"]]
        fields = timed(len(each), max(answer["seconds"] for answer in answers))
        fields |= {"workload": f"W2-{callers}"} | quantiles(each)
        yield fields | costing(cpu, len(each)) | taking(session)


def drain(session: Session, scale: float) -> Iterator[Fields]:
    """W3, drain: a backlog of jobs that do nothing is run by two worker processes, or what the
    system has, from the first to the last start of a handler, so that the start of the workers is
    left out. For slimq's commands and functions until the last one is done in the store."""
    count = fill(session, most(session.system.jobs, scale), FILL_S)
    with session.workers(session.system.program.workers):
        begin = session.await_all(1, START_S)
        before = session.served_seconds()
        hits = session.wait(count, DRAIN_S)
        cpu = session.served_seconds() - before
        fields = timed(hits.count, (hits.last - hits.first) / 1e9)
        seen = max(1, hits.count - begin.count)
        yield fields | costing(cpu, seen) | taking(session)


def lone(session: Session, scale: float) -> Iterator[Fields]:
    """W4, idle latency: one job into an idle system, 100 times, 5 to 30 ms after the last one ran,
    from the call of the client to the start of the handler."""
    with session.workers(session.lone_workers):
        session.ask("one")
        session.await_all(1, START_S)
        time.sleep(0.5)
        before = session.served_seconds()
        each = _one_by_one(session, most(LONE, scale))
        cpu = session.served_seconds() - before
        fields = {"n": len(each)} | quantiles([ns / 1e6 for ns in each])
        yield fields | costing(cpu, len(each)) | taking(session)


def backlog(session: Session, scale: float) -> Iterator[Fields]:
    """W5, backlog: as W3, with 1,000,000 jobs waiting, in five windows of 20,000 or 2 s each; to be
    compared with W3, whose backlog is small. Left out where filling takes more than 45 s."""
    yield from _windows(session, most(MANY, scale), scale)


def backlog_5m(session: Session, scale: float) -> Iterator[Fields]:
    """W5, backlog: the same with 5,000,000."""
    yield from _windows(session, most(5 * MANY, scale), scale)


def deferred(session: Session, scale: float) -> Iterator[Fields]:
    """W6, deferred: as W4, with 1,000,000 jobs present that are due in a day. Left out where
    filling takes more than 45 s."""
    fill_many(session, most(MANY, scale), DAY_S)
    yield from lone(session, scale)


def idle(session: Session, scale: float) -> Iterator[Fields]:
    """W7, idle cost: broker and workers after one job, with nothing to do for 3 s, watched for 5 s:
    processor time, and the proportional set of all their processes."""
    with session.workers(session.lone_workers):
        session.ask("one")
        session.await_all(1, START_S)
        time.sleep(REST_S * scale)
        before = session.served_seconds()
        time.sleep(WATCH_S * scale)
        used = session.served_seconds() - before
        percent = 100 * used / (WATCH_S * scale)
        yield {"n": 1, "cpu_percent": rounded(percent)} | taking(session)


def together(session: Session, scale: float) -> Iterator[Fields]:
    """W9, accept and drain together: for a minute 32 callers send single jobs at 70 % of the slower
    of two rates that were measured just before: as fast as they can, and that at which the workers
    drain: those of W3, or of W4 where these differ. Latencies are those of the callers. How long
    jobs wait for their handler is watched on 50 others a second. What is left was accepted and had
    not started after that minute."""
    sent = session.call(BOTH_CALLERS, CALL_S * scale)
    accepted = sum(answer["count"] for answer in sent)
    accepts = accepted / max(answer["seconds"] for answer in sent)
    count = accepted + fill(session, most(session.system.jobs, scale), FILL_S)
    with session.workers(session.lone_workers):
        hits = session.await_all(count, ALL_S)
        drains = count / (hits.last - hits.first) * 1e9
        memory, before = session.memory_mb(), session.served_seconds()
        rate = BOTH_SHARE * min(accepts, drains)
        calls, watched = session.call_at(rate, BOTH_CALLERS, BOTH_S * scale)
        count += calls["count"] + watched
        left = count - session.hits().count
        cpu, grown = session.served_seconds() - before, session.memory_mb() - memory
        waits = session.await_all(count, ALL_S).latencies[len(hits.latencies) :]
        fields = timed(calls["count"], calls["seconds"])
        fields |= quantiles([us / 1e3 for us in calls["us"]])
        fields |= {"wait_p99_ms": quantiles([ns / 1e6 for ns in waits])["p99_ms"]}
        fields |= {"left": left, "grown_mb": rounded(grown)}
        yield fields | costing(cpu, calls["count"] + watched) | taking(session)


def recovery(session: Session, scale: float) -> Iterator[Fields]:
    """W10, recovery: with 1,000,000 jobs waiting the server is killed (SIGKILL) and started again,
    and its workers as soon as it takes connections: from the start of the server to the first start
    of a handler, and the memory 5 s later."""
    restart = session.broker.restart
    if restart is None:
        raise LeftOut("it has no server of its own to kill")
    count = most(MANY, scale)
    fill_many(session, count, 0)
    at = restart()
    with session.workers(session.lone_workers):
        hits = session.await_all(1, START_S)
        memory = session.memory_mb()
        time.sleep(WATCH_S * scale)
        grown = session.memory_mb() - memory
        fields = {"n": count, "first_s": rounded((hits.first - at) / 1e9)}
        yield fields | {"grown_mb": rounded(grown)} | taking(session)


# Those of the second table run once: filling a million takes its time, and idleness varies little.
EACH_ROUND: dict[str, Measure] = {"W1": bulk, "W2": single, "W3": drain, "W4": lone}
ONCE: dict[str, Measure] = {
    "W5": backlog,
    "W5-5M": backlog_5m,
    "W6": deferred,
    "W7": idle,
    "W9": together,
    "W10": recovery,
}


def most(count: int, scale: float) -> int:
    return max(10, int(count * scale))


def fill(session: Session, count: int, seconds: float, delay_s: int = 0) -> int:
    """Add jobs, and wait until workers would find them; return how many it were."""
    done = session.bulk(count, seconds, delay_s)["count"]
    session.ask("settle")
    return int(done)


def fill_many(session: Session, count: int, delay_s: int) -> None:
    """Add many jobs, unless the first hundredth says that it would take too long."""
    first = session.bulk(max(1, count // 100), PROBE_S, delay_s)
    needed = first["seconds"] * count / first["count"]
    if needed > MANY_S:
        raise LeftOut(f"to add {count:,} jobs would take {needed:.0f} s, more than {MANY_S:g}")
    fill(session, count - first["count"], MANY_S, delay_s)


def _windows(session: Session, count: int, scale: float) -> Iterator[Fields]:
    fill_many(session, count, 0)
    with session.workers(session.system.program.workers):
        last = session.await_all(1, START_S).at_first()
        for _ in range(WINDOWS):
            if last.count >= count:
                break
            before = session.served_seconds()
            hits = session.wait(last.count + most(WINDOW, scale), WINDOW_S)
            cpu = session.served_seconds() - before
            if hits.count == last.count:
                raise LeftOut(f"nothing ran for {WINDOW_S:g} s")
            ran = hits.count - last.count
            fields = timed(ran, (hits.last - last.last) / 1e9)
            yield fields | costing(cpu, ran) | taking(session)
            last = hits


def timed(count: int, seconds: float) -> Fields:
    return {"n": count, "seconds": rounded(seconds), "jobs_per_s": rounded(count / seconds)}


def costing(cpu_seconds: float, count: int) -> Fields:
    return {"cpu_us_per_job": rounded(1e6 * cpu_seconds / count)}


def taking(session: Session) -> Fields:
    return {"rss_mb": rounded(session.memory_mb())}


def quantiles(each: list[float]) -> Fields:
    return {f"p{q}_ms": rounded(percentile(each, q)) for q in (50, 99)}


def _one_by_one(session: Session, count: int) -> list[int]:
    """Add lone jobs; return the latency of each in ns. The first one was before."""
    first = session.hits()
    for number in itertools.count(first.count + 1):
        session.ask("one")
        session.await_all(number, LONE_S)
        if number == first.count + count:
            break
        time.sleep(random.uniform(*PAUSE_S))
    return session.hits().latencies[len(first.latencies) :]
