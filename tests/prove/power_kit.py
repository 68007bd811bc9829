"""The life of a node on a disk whose power will be cut, and what must be there after that."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import apsw
from load_kit import NO_ANSWER
from node_kit import Node

from slimq.core.limits import LIST_MAX
from slimq.ingest import Ingester
from slimq.journal.reader import JournalReader
from slimq.journal.writer import JournalWriter
from slimq.store.base import JobFilter
from slimq.store.opening import Store, open_store
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from slimq.system.disk import SystemDisk

CALLERS = 6
PURGE_NS = 1_000_000_000  # how long jobs that ended OK are kept
LEVELS = ("journal", "journal", "journal", "journal", "buffered", "buffered", "store")
JOBS = "SELECT id, coalesce(job.data, large.data) FROM job LEFT JOIN large USING (seq)"


@dataclass
class Request:
    """What a caller sent, and when it was answered: ns of CLOCK_MONOTONIC, 0 for never."""

    lines: list[bytes]
    level: str
    sent_at: int
    acked_at: int = 0
    ids: list[str] = field(default_factory=list)


class Caller(threading.Thread):
    """Sends requests over one connection until that ends."""

    def __init__(self, url: str, name: str, chance: random.Random) -> None:
        super().__init__(name=name)
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        self._chance = chance
        self._stopped = threading.Event()
        self.requests: list[Request] = []

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        try:
            while not self._stopped.wait(self._chance.uniform(0, 0.01)):
                self._send()
        except NO_ANSWER:
            pass  # the node is gone: whether it took the last request is not known
        finally:
            self._connection.close()

    def _send(self) -> None:
        chance, number = self._chance, len(self.requests)
        size = chance.choice((0, 0, 30, 300, 5000))
        count = chance.choice((1, 1, 1, 3, 20))
        lines = [
            b"%s-%d %d %s" % (self.name.encode(), number, n, b"x" * size) for n in range(count)
        ]
        request = Request(lines, chance.choice(LEVELS), time.monotonic_ns())
        self.requests.append(request)
        path = f"/add?jobtype=work&ids=all&durability={request.level}"
        self._connection.request("POST", path, b"".join(line + b"\n" for line in lines))
        answer = self._connection.getresponse()
        document = json.load(answer)
        if answer.status == 202:
            assert answer.headers["Slimq-Durability"] == request.level
            request.ids = document["ids"]
            request.acked_at = time.monotonic_ns()
        else:
            assert answer.status == 503, document  # it ends, or the store is too slow


def live(folder: Path, ran: Path, chance: random.Random, boots: int) -> list[Request]:
    """Let a node accept, ingest, run, finish, purge, be killed and ended, and start again."""
    requests: list[Request] = []
    command = ["sh", "-c", f'tee "{ran}/$SLIMQ_SYSID-$$" | sed "s/^/200 /"']
    ran.mkdir()
    settings = {"SLIMQ_PURGE__OK": f"{PURGE_NS // 10**9}s", "SLIMQ_JOURNAL__RETAIN": "0s"}
    with Node(folder, **settings) as node:
        for boot in range(boots):
            if boot == 1:
                node.put("work", lang="exec", body=command, options={"batch_size": 50})
            callers = [
                Caller(node.url, f"{boot}-{n}", random.Random(chance.getrandbits(32)))
                for n in range(CALLERS)
            ]
            for caller in callers:
                caller.start()
            time.sleep(chance.uniform(0.5, 1.0))  # the moment of its end is what varies
            is_killed = boot < boots - 1 and chance.random() < 0.5
            if is_killed:
                node.kill()
            for caller in callers:
                caller.stop()
            for caller in callers:
                caller.join(60)
                requests += caller.requests
            if not is_killed:
                assert node.quit() == 0
            if boot < boots - 1:
                node.start()
    return requests


def when_run(ran: Path) -> dict[bytes, int]:
    """Return when each line was given to a command first, ns of CLOCK_MONOTONIC."""
    ahead = time.time_ns() - time.monotonic_ns()
    when: dict[bytes, int] = {}
    for path in sorted(ran.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for line in path.read_bytes().split(b"\n"):
            when.setdefault(line, path.stat().st_mtime_ns - ahead)
    return when


class Found(NamedTuple):
    """What is in a store after a power cut or kill: before the journal was read, and after.
    `total` counts the jobs that are there and those that were purged."""

    stored: set[str]
    stored_purged: int
    jobs: dict[str, bytes]
    total: int
    purged: int


def recover(data: Path, url: str = "") -> Found:
    """Do what a node does when it starts: open the journal, bring it into the store."""
    clock, path = SystemClock(), data / "store.db"
    writer = JournalWriter(data / "journal", disk=SystemDisk(), clock=clock, chance=SystemChance())
    writer.open()
    store = open_store(url, path, clock=clock, durable=False)
    try:
        ingester = Ingester(
            writer, JournalReader(writer), store, retain_ms=1 << 40, forget_keys=lambda _: None
        )
        ingester.start()
        before, before_purged = look(store, None if url else path)
        while ingester.behind:
            ingester.step()
        jobs, purged = look(store, None if url else path)
    finally:
        store.close()
        writer.close()
    return Found(set(before), before_purged, jobs, len(jobs) + purged, purged)


def look(store: Store, file: Path | None) -> tuple[dict[str, bytes], int]:
    """Return the data of all jobs by id, and how many were purged. The counts must be right,
    and the file of the store sound."""
    totals = store.totals()
    jobs = dict(jobs_of(store) if file is None else jobs_in(file))
    count = totals.waiting + totals.running + totals.ok + totals.failed + totals.error
    assert len(jobs) == count, "the counts are not those of the jobs"
    return jobs, totals.purged


def jobs_in(file: Path) -> list[tuple[str, bytes]]:
    db = apsw.Connection(str(file))
    try:
        assert db.pragma("integrity_check") == "ok"
        return [(id_, bytes(data)) for id_, data in db.execute(JOBS)]
    finally:
        db.close()


def jobs_of(store: Store) -> Iterator[tuple[str, bytes]]:
    before = ""
    while page := store.jobs(JobFilter(), before=before, limit=LIST_MAX):
        before = page[-1].id
        for each in page:
            job = store.job(each.id)
            assert job is not None
            yield each.id, job.data or b""


@dataclass
class Judge:
    """Says whether all that must be there is, and nothing that must not."""

    requests: list[Request]
    ran_at: dict[bytes, int]
    figures: Counter[str] = field(default_factory=Counter)
    window_ms: float = 0

    def judge(self, found: Found, at: int) -> None:
        """`at` is when the power was cut."""
        acked = [request for request in self.requests if 0 < request.acked_at < at]
        open_ = [r for r in self.requests if r.sent_at < at and not 0 < r.acked_at < at]
        lost = [request for request in acked if self._is_lost(request, found, at)]
        self._check_lost(lost, acked, found, at)
        kept = [request for request in acked if request not in lost]
        self._check_total(kept, open_, found)
        for request in acked:
            if request.level == "store" and not found.stored_purged:
                assert found.stored.issuperset(request.ids), "in the journal only"
        self.figures["checked"] += sum(len(request.lines) for request in acked)
        self.figures["images"] += 1
        self.figures["purged_images"] += found.purged > 0

    def _is_lost(self, request: Request, found: Found, at: int) -> bool:
        there = [id_ for id_ in request.ids if id_ in found.jobs]
        for id_, line in zip(request.ids, request.lines, strict=True):
            assert found.jobs.get(id_, line) == line, f"{id_} has other data"
        gone = [
            line
            for id_, line in zip(request.ids, request.lines, strict=True)
            if id_ not in found.jobs
        ]
        purgeable = at - PURGE_NS  # what ran later is not purged yet
        if all(self.ran_at.get(line, at) < purgeable for line in gone):
            return False
        assert not there, f"half of a request is there: {request.ids}"
        return True

    def _check_lost(self, lost: list[Request], acked: list[Request], found: Found, at: int) -> None:
        for request in lost:
            assert request.level == "buffered", f"{request.level}: {request.ids} are lost"
            age_ms = (at - request.acked_at) / 1e6
            self.window_ms = max(self.window_ms, age_ms)
            node = request.ids[0][8:16]
            later = [r for r in acked if r.ids[0][8:16] == node and r.ids > request.ids]
            assert all(r in lost for r in later), f"{request.ids} are lost, and later ones not"
            self.figures["buffered_lost"] += len(request.lines)

    def _check_total(self, kept: list[Request], open_: list[Request], found: Found) -> None:
        """Each that was acknowledged came in once, and of those that were not answered each
        as a whole or not at all: else the sum is not one of theirs."""
        by_line = {line: r for r in open_ for line in r.lines}
        known = {id_ for request in kept for id_ in request.ids}
        there = [by_line[data] for id_, data in found.jobs.items() if id_ not in known]
        sizes = Counter(map(id, there))
        for request in {id(r): r for r in there}.values():
            is_whole = sizes[id(request)] == len(request.lines)
            assert is_whole or found.purged, "half of a request is there"
        rest = found.total - sum(len(request.lines) for request in kept)
        sums = {0}
        for request in open_:
            sums |= {each + len(request.lines) for each in sums}
        assert rest in sums, f"{rest} jobs came in that nobody sent, or came in twice"
