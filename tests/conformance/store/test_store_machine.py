"""The memory store is the oracle: whatever is done to it and another store, both show the same."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import apsw
import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from postgres_rig import PostgresRig
from store_kit import JOURNAL, NODE, OTHER, START_MS, FakeClock, Store, node

from postgres_kit import Server
from proof_kit import Proof
from slimq.core.handler import Options
from slimq.core.job import Job, Result
from slimq.core.jobid import Minter
from slimq.core.lifecycle import Lease, settle_all
from slimq.core.limits import LEASE_MS
from slimq.store.base import Claim, Cursor, CursorMoved, Finished, JobFilter, NewJobs
from slimq.store.memory import MemoryStore
from slimq.store.postgres_floor import Floors
from slimq.store.sqlite import SqliteStore

TYPES = ["a/x", "a/y", "b/x"]
LOCKS = [NODE, OTHER]
OPTIONS = [
    Options(max_failures=2, backoff_min_ms=1000, backoff_max_ms=2000, max_age_ms=60_000),
    Options(ordered=True, backoff_min_ms=1000, backoff_max_ms=2000),
]
STATUSES = [102, 200, 204, 400, 500, 504]

types = st.sampled_from(TYPES)
locks = st.sampled_from(LOCKS)
filters = st.builds(
    JobFilter,
    client=st.sampled_from([None, "a", "b", "c"]),
    jobtype=st.sampled_from([None, "x", "y"]),
    state=st.sampled_from([None, "deferred", "ready", "running", "abandoned", "done"]),
    outcome=st.sampled_from([None, None, "ok", "failed", "error"]),
    since=st.sampled_from([None, None, START_MS + 20_000]),
    until=st.sampled_from([None, None, START_MS + 20_000]),
)

SQLITE_RECOUNT = """
SELECT name, waiting, running, ok, failed, error, next_dt,
  (SELECT count(*) FROM job AS j WHERE j.type_id = t.type_id AND lock = ''),
  (SELECT count(*) FROM job AS j WHERE j.type_id = t.type_id AND lock NOT IN ('', '__done')),
  (SELECT count(*) FROM job AS j WHERE j.type_id = t.type_id AND lock = '__done'
    AND status < 300),
  (SELECT count(*) FROM job AS j WHERE j.type_id = t.type_id AND lock = '__done'
    AND status BETWEEN 300 AND 499),
  (SELECT count(*) FROM job AS j WHERE j.type_id = t.type_id AND lock = '__done'
    AND status > 499),
  (SELECT min(dt) FROM job AS j WHERE j.type_id = t.type_id AND lock = '')
FROM type AS t
"""
SQLITE_LEFTOVERS = """
SELECT (SELECT count(*) FROM run WHERE seq NOT IN (SELECT seq FROM job)),
  (SELECT count(*) FROM large WHERE seq NOT IN (SELECT seq FROM job)),
  (SELECT count(*) FROM job WHERE data IS NULL AND seq NOT IN (SELECT seq FROM large)),
  (SELECT count(*) FROM output WHERE refs <>
    (SELECT count(*) FROM run WHERE run.output_id = output.output_id)
    + (SELECT count(*) FROM job WHERE job.output_id = output.output_id))
"""
POSTGRES_RECOUNT = """
SELECT name, c.waiting, c.running, c.ok, c.failed, c.error, c.bytes,
  (SELECT count(*) FROM slimq.job AS j WHERE j.type_id = t.type_id AND lock = ''),
  (SELECT count(*) FROM slimq.job AS j WHERE j.type_id = t.type_id AND lock <> ''),
  (SELECT count(*) FROM slimq.done AS j WHERE j.type_id = t.type_id AND status < 300),
  (SELECT count(*) FROM slimq.done AS j WHERE j.type_id = t.type_id
    AND status BETWEEN 300 AND 499),
  (SELECT count(*) FROM slimq.done AS j WHERE j.type_id = t.type_id AND status > 499),
  (SELECT coalesce(sum(200 + octet_length(data)), 0)::bigint FROM (
    SELECT type_id, data FROM slimq.job UNION ALL SELECT type_id, data FROM slimq.done) AS j
    WHERE j.type_id = t.type_id),
  coalesce(next_dt <= (SELECT min(dt) FROM slimq.job AS j
    WHERE j.type_id = t.type_id AND lock = ''), c.waiting = 0)
FROM slimq.type AS t CROSS JOIN LATERAL (
  SELECT sum(waiting)::bigint AS waiting, sum(running)::bigint AS running,
    sum(ok)::bigint AS ok, sum(failed)::bigint AS failed, sum(error)::bigint AS error,
    sum(bytes)::bigint AS bytes
  FROM slimq.type_count AS c WHERE c.type_id = t.type_id) AS c
WHERE c.waiting IS NOT NULL
"""
POSTGRES_LEFTOVERS = """
WITH j AS (SELECT seq, id, NULL::bigint AS output_id FROM slimq.job
  UNION ALL SELECT seq, id, output_id FROM slimq.done)
SELECT (SELECT count(*) FROM slimq.run WHERE seq NOT IN (SELECT seq FROM j)),
  (SELECT count(*) - count(DISTINCT id) FROM j),
  (SELECT count(*) FROM slimq.output WHERE refs <>
    (SELECT count(*) FROM slimq.run WHERE run.output_id = output.output_id)
    + (SELECT count(*) FROM j WHERE j.output_id = output.output_id))
"""


class Stores(RuleBasedStateMachine):
    """Of a kind of store there are two objects, as two nodes have them. `done` counts the runs
    and their steps, of all that there were since somebody emptied it."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.done["runs"] += 1
        self.clock = FakeClock()
        self.set_up()
        self.minters = {lock: Minter(lock) for lock in LOCKS}
        self.memory = MemoryStore(self.clock)
        self.nodes = {lock: self.open() for lock in LOCKS}
        for lock in LOCKS:
            self.both(lock, "register", node(lock))
        self.ids: list[str] = []
        self.claimed: list[tuple[str, str, Job]] = []  # type, lock, job: also those long lost
        self.requests: list[NewJobs] = []

    def set_up(self) -> None:
        raise NotImplementedError

    def tear_down(self) -> None:
        raise NotImplementedError

    def open(self) -> Store:
        raise NotImplementedError

    def recount(self) -> None:
        """Compare the counts with the jobs, and look for what belongs to none."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            for id_ in self.ids:
                self.both(NODE, "job", id_)
        finally:
            for store in self.nodes.values():
                store.close()
            self.tear_down()

    def both(self, lock: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Do the same with both stores; return what both told."""
        expected, told = (
            _outcome(store, method, *args, **kwargs) for store in (self.memory, self.nodes[lock])
        )
        assert told == expected, f"{method}: memory {expected}, the other {told}"
        return told

    def ingest(self, lock: str, jobs: list[NewJobs], cursor: Cursor | None = None) -> None:
        at = self.both(lock, "cursor", JOURNAL) if cursor is None else cursor
        self.both(lock, "ingest", JOURNAL, at, at._replace(offset=at.offset + 1), jobs)

    def new(self, lock: str, type_: str, count: int, **fields: Any) -> NewJobs:
        block = self.minters[lock].block(count, self.clock.wall_ms())
        new = NewJobs(type_, self.memory.now(), block.ids(), [], block.first, count)
        for name, value in fields.items():
            setattr(new, name, value)
        new.data = [b"x" * (size % 5000) for size in range(7, 7 + count * 1900, 1900)]
        self.ids += new.ids
        return new

    @rule(
        lock=locks,
        type_=types,
        counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
        delay=st.sampled_from([-500, 0, 0, 700, 40_000]),
        key=st.sampled_from(["", "", "k1", "k2"]),
        digest=st.sampled_from(["d1", "d1", "d2"]),
    )
    def add(self, lock: str, type_: str, counts: list[int], delay: int, key: str, digest: str):
        jobs = [
            self.new(lock, type_, count, dt=self.memory.now() + delay, key=key, digest=digest)
            for count in counts
        ]
        self.requests += jobs
        self.ingest(lock, jobs)

    @rule(lock=locks, type_=types, count=st.integers(1, 4), data=st.data())
    def add_children(self, lock: str, type_: str, count: int, data: st.DataObject):
        if self.ids:
            parent = data.draw(st.sampled_from(self.ids))
            self.ingest(lock, [self.new(lock, type_, count, parent=parent, trace="00-t")])

    @rule(lock=locks, data=st.data())
    def add_again(self, lock: str, data: st.DataObject):
        if self.requests:
            self.ingest(lock, [data.draw(st.sampled_from(self.requests))])

    @rule(lock=locks)
    def ingest_with_a_stale_cursor(self, lock: str):
        self.ingest(lock, [self.new(lock, "a/x", 1)], Cursor(9, 9))

    @rule(
        lock=locks,
        type_=types,
        limit=st.integers(0, 8),
        bytes_max=st.sampled_from([1, 4000, 1 << 20]),
        full=st.sampled_from([0, 0, 3]),
        ordered=st.booleans(),
    )
    def claim(self, lock: str, type_: str, limit: int, bytes_max: int, full: int, ordered: bool):
        wants = {"full": full, "window_ms": 600, "ordered": ordered, "lease_ms": LEASE_MS}
        claim: Claim = self.both(lock, "claim", type_, lock, limit, bytes_max=bytes_max, **wants)
        assert len(claim.jobs) <= limit
        self.claimed += [(type_, lock, job) for job in claim.jobs]

    @rule(
        data=st.data(),
        options=st.sampled_from(OPTIONS),
        text=st.sampled_from([b"", b"fine", b"\xff\x00"]),
        output=st.sampled_from([b"", b"tail"]),
    )
    def finish(self, data: st.DataObject, options: Options, text: bytes, output: bytes):
        lock = data.draw(locks)
        by_type: dict[str, list[tuple[Job, Result]]] = {}
        for type_, _, job in data.draw(_some(self.claimed)):
            status = data.draw(st.sampled_from(STATUSES))
            result = Result(status, text, "why" * (status > 299), crashed=status == 504)
            by_type.setdefault(type_, []).append((job, result))
        now = self.memory.now()
        finished = []
        for type_, ended in by_type.items():
            jobs, results = zip(*ended, strict=True)
            moves = settle_all(jobs, results, options, now, lambda: 0.5)
            finished.append(Finished(type_, moves, output))
        self.both(lock, "finish", lock, finished)

    @rule(data=st.data(), lock=locks, verb=st.sampled_from(["renew", "release"]))
    def keep_or_give_back(self, data: st.DataObject, lock: str, verb: str):
        jobs = [job for *_, job in data.draw(_some(self.claimed))]
        leases = [Lease(job.id, job.attempt) for job in jobs]
        wants = {"lease_ms": LEASE_MS} if verb == "renew" else {}
        self.both(lock, verb, lock, leases, **wants)

    @rule(lock=locks)
    def look_at_leases(self, lock: str):
        self.both(lock, "leases", lock)

    @rule(lock=locks, limit=st.integers(1, 9), dead=st.sampled_from([None, None, *LOCKS]))
    def free(self, lock: str, limit: int, dead: str | None):
        self.both(lock, "free", limit, lock=dead)

    @rule(lock=locks, data=st.data(), verb=st.sampled_from(["cancel", "retry"]))
    def change(self, lock: str, data: st.DataObject, verb: str):
        self.both(lock, verb, data.draw(_some(self.ids)))

    @rule(lock=locks, where=filters, verb=st.sampled_from(["cancel", "retry"]))
    def change_where(self, lock: str, where: JobFilter, verb: str):
        self.both(lock, "change_where", verb, where, 1000)

    @rule(lock=locks, type_=types, limit=st.integers(1, 9))
    def purge_type(self, lock: str, type_: str, limit: int):
        self.both(lock, "purge_type", type_, limit)

    @rule(lock=locks, age=st.sampled_from([0, 1000, 40_000]))
    def purge(self, lock: str, age: int):
        before = self.memory.now() - age
        self.both(
            lock, "purge", ok_before=before, failed_before=before, bytes_max=1 << 40, limit=1000
        )

    @rule(ms=st.sampled_from([1, 500, 1000, LEASE_MS]))
    def advance(self, ms: int):
        self.clock.advance(ms)

    @rule(lock=locks)
    def beat(self, lock: str):
        self.both(lock, "beat", node(lock))

    @rule(lock=locks)
    def restart(self, lock: str):
        self.nodes[lock].close()
        self.nodes[lock] = self.open()

    @rule(lock=locks, where=filters, limit=st.integers(0, 9), data=st.data())
    def list_jobs(self, lock: str, where: JobFilter, limit: int, data: st.DataObject):
        before = data.draw(st.sampled_from(["", *self.ids[-5:]]))
        self.both(lock, "jobs", where, before=before, limit=limit)

    @rule(lock=locks, data=st.data(), key=st.sampled_from(["k1", "k2"]))
    def ask(self, lock: str, data: st.DataObject, key: str):
        if self.ids:
            self.both(lock, "job", data.draw(st.sampled_from(self.ids)))
        self.both(lock, "key_use", "a/x", key)

    @rule(until=st.sampled_from([0, 700, 100_000]), after=st.sampled_from(["", "a/x"]))
    def due(self, until: int, after: str):
        for limit in (1, 9):
            self.both(NODE, "due", self.memory.now() + until, after, limit)

    @invariant()
    def both_show_the_same(self):
        now = self.both(NODE, "now")
        self.both(OTHER, "types", client=None, jobtype=None, after="", limit=99)
        totals = [store.totals() for store in (self.memory, self.nodes[NODE])]
        for total in totals:
            total.bytes = 0
        assert totals[0] == totals[1]
        assert now == self.clock.wall_ms()

    @invariant()
    def counts_are_what_a_recount_gives(self):
        self.recount()
        self.done["steps"] += 1


class SqliteStores(Stores):
    def set_up(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "store.db")

    def tear_down(self) -> None:
        self.folder.cleanup()

    def open(self) -> Store:
        return SqliteStore(self.path, clock=self.clock, durable=False, boot="boot1")

    def recount(self) -> None:
        with apsw.Connection(str(self.path)) as db:
            for _, *kept in db.execute(SQLITE_RECOUNT):
                assert kept[:6] == kept[6:]
            assert db.execute(SQLITE_LEFTOVERS).get == (0, 0, 0, 0)
        db.close()


class PostgresStores(Stores):
    server: Server

    def set_up(self) -> None:
        self.rig = PostgresRig(self.server, self.clock)

    def tear_down(self) -> None:
        self.rig.close()

    def open(self) -> Store:
        return self.rig.store(Floors(full_every_ms=0))

    def recount(self) -> None:
        for _, *kept, is_hinted in self.rig.db.execute(POSTGRES_RECOUNT):
            assert kept[:6] == kept[6:]
            assert is_hinted, "a type says that it is due later than its first job"
        assert self.rig.db.execute(POSTGRES_LEFTOVERS).fetchone() == (0, 0, 0)


def _some(items: list[Any]) -> st.SearchStrategy[list[Any]]:
    if not items:
        return st.just([])
    return st.lists(st.sampled_from(items), max_size=8, unique_by=id)


def _outcome(store: Store, method: str, /, *args: Any, **kwargs: Any) -> Any:
    try:
        return getattr(store, method)(*args, **kwargs)
    except CursorMoved:
        return CursorMoved


def compare(stores: type[Stores], proof: Proof, runs: int, steps: int) -> Counter[str]:
    """Do things at random to a store and to the oracle; return how much was done."""
    stores.done = Counter()
    wanted = settings(max_examples=runs, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(seed(proof.seed)(stores), settings=wanted)
    return stores.done


@pytest.mark.proof("T8")
def test_the_sqlite_store_shows_what_the_memory_store_shows(proof: Proof) -> None:
    runs = proof.size(submission=200, release=2_000)
    done = compare(SqliteStores, proof, runs, proof.size(submission=40, release=50))
    proof.report(sqlite_runs=done["runs"], steps=done["steps"], differences=0)


@pytest.mark.proof("T8")
@pytest.mark.timeout(600)  # 10 s alone; Hypothesis takes a time out for a flaky test
def test_the_postgres_store_shows_what_the_memory_store_shows(
    postgres: Server, proof: Proof
) -> None:
    PostgresStores.server = postgres
    runs = proof.size(submission=20, release=1_000)
    done = compare(PostgresStores, proof, runs, proof.size(submission=30, release=50))
    proof.report(postgres_runs=done["runs"], steps=done["steps"], differences=0)
