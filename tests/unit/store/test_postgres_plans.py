"""What the engine asks of PostgreSQL goes through indexes, whatever waits, however planned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import chain, count

import psycopg
import pytest
from postgres_plan_kit import Plan, Watched, with_settings

from postgres_kit import Server
from slimq.core.handler import Options
from slimq.core.job import Job, Result
from slimq.core.jobid import Minter
from slimq.core.lifecycle import Lease, settle
from slimq.core.limits import LEASE_MS, MIB
from slimq.store.base import Cursor, Finished, NewJobs
from slimq.store.postgres import PostgresStore
from slimq.system.clock import SystemClock

MANY = 200_000
PIECE = 10_000
TYPE, OTHER = "acme/mail", "acme/other"
PLANNERS = {
    "as it comes": {},
    "generic": {"plan_cache_mode": "force_generic_plan"},
    "custom": {"plan_cache_mode": "force_custom_plan"},
    "nested loops": {
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_seqscan": "off",
        "enable_material": "off",
    },
    "nested loops, generic": {
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_memoize": "off",
        "plan_cache_mode": "force_generic_plan",
    },
}
FREE = ("as it comes", "generic", "custom")
PLANNED = pytest.mark.parametrize("planner", PLANNERS)
_names = count(1)


@pytest.fixture(scope="module")
def crowd(postgres: Server) -> Iterator[str]:
    """The address of a database in which MANY jobs wait."""
    name = f"crowd_{next(_names)}"
    url = postgres.create_database(name)
    with closing(open_store(url)) as store:
        for type_, jobs in ((TYPE, MANY), (OTHER, PIECE)):
            for _ in range(0, jobs, PIECE):
                add(store, PIECE, type_)
        end(store, claim(store, 1000, OTHER), OTHER)
    postgres.execute("ANALYZE slimq.job, slimq.done", database=name)
    yield url
    postgres.drop_database(name)


def open_store(url: str) -> PostgresStore:
    return PostgresStore(url, clock=SystemClock())


def add(store: PostgresStore, jobs: int, type_: str = TYPE) -> list[str]:
    """Add jobs that are due; return their ids."""
    now = store.now()
    block = Minter(f"node{next(_names):04}").block(jobs, now)
    at = store.cursor(block.first)
    moved = Cursor(0, at.offset + 1)
    store.ingest(block.first, at, moved, [NewJobs(type_, now - 1, block.ids(), [b"data"] * jobs)])
    return block.ids()


def claim(store: PostgresStore, limit: int, type_: str = TYPE, lock: str = "nodeAAAA") -> list[Job]:
    return store.claim(type_, lock, limit, lease_ms=LEASE_MS, bytes_max=MIB).jobs


def end(store: PostgresStore, jobs: list[Job], type_: str = TYPE, status: int = 200) -> None:
    now = store.now()
    moves = [settle(job, Result(status), Options(), now, 0.5) for job in jobs]
    assert store.finish("nodeAAAA", [Finished(type_, moves)]) == set()


def leases(jobs: list[Job]) -> list[Lease]:
    return [Lease(job.id, job.attempt) for job in jobs]


def work(store: PostgresStore, limit: int) -> None:
    """What an engine does, thrice: psycopg prepares what comes a second time."""
    for _ in range(3):
        now = store.now()
        store.due(now + 2000, "", 100)
        ids = add(store, limit)
        jobs = claim(store, 2 * limit)
        assert len(jobs) == 2 * limit
        assert store.renew("nodeAAAA", leases(jobs), lease_ms=LEASE_MS) == set()
        store.release("nodeAAAA", leases(jobs[:1]))
        end(store, jobs[1:limit])
        end(store, jobs[limit:], status=503)
        store.free(100)
        for id_ in (ids[0], jobs[0].id, jobs[1].id):
            assert store.job(id_) is not None


def costly(plan: Plan, limit: int) -> list[str]:
    """Return what a plan does that grows with the number of jobs, or with the square of what
    the statement is about. A bitmap is allowed where it found nothing: of a partition that is
    empty the planner knows too little to prefer either."""
    reads = chain(plan.reading("job"), plan.reading("done"))
    whole = [
        step
        for step in reads
        if step.kind == "Seq Scan" or (step.kind == "Bitmap Heap Scan" and step.rows)
    ]
    loops = [step for step in plan.steps if step.rows + step.removed > 10 * limit + 1000]
    return [str(step) for step in whole + loops]


@pytest.mark.parametrize(
    ("planner", "limit"), [(each, 10) for each in PLANNERS] + [(each, 2000) for each in FREE]
)
def test_no_statement_of_the_engine_reads_all_jobs_or_loops_in_a_loop(
    postgres: Server, crowd: str, planner: str, limit: int
):
    watched = Watched(postgres, crowd)
    with closing(open_store(watched.url(PLANNERS[planner]))) as store:
        work(store, limit)
    plans = [plan for plan in watched.plans() if "slimq." in plan.query]
    assert any("SKIP LOCKED" in plan.query for plan in plans)
    assert any("INSERT INTO slimq.done" in plan.query for plan in plans)
    for plan in plans:
        assert not costly(plan, limit), f"{costly(plan, limit)}: {plan.query}"


@pytest.mark.parametrize("known", ["ANALYZE", "VACUUM ANALYZE"])
def test_what_was_planned_while_nothing_waited_reads_no_more_when_much_does(
    postgres: Server, database: str, known: str
):
    with closing(open_store(database)) as store:
        store.check()  # makes the schema
    watched = Watched(postgres, database)
    with closing(open_store(watched.url({}))) as store, psycopg.connect(database) as db:
        db.autocommit = True
        for _ in range(2):
            for _ in range(8):
                add(store, 10)
                end(store, claim(store, 10))
            db.execute(f"{known} slimq.job".encode())
        add(store, 10)
        end(store, claim(store, 10))
        add(store, 5000)
        watched.forget()
        for _ in range(3):
            end(store, claim(store, 10))
    plans = [plan for plan in watched.plans() if "slimq." in plan.query]
    assert len(plans) >= 6
    for plan in plans:
        assert not costly(plan, 10), f"{costly(plan, 10)}: {plan.query}"


@PLANNED
@pytest.mark.parametrize("limit", [50, 1000])
def test_a_claim_reads_no_more_jobs_than_it_takes(
    postgres: Server, crowd: str, planner: str, limit: int
):
    watched = Watched(postgres, crowd)
    with closing(open_store(watched.url(PLANNERS[planner]))) as store:
        for _ in range(4):
            assert len(claim(store, limit)) == limit
    claims = [plan for plan in watched.plans() if "SKIP LOCKED" in plan.query]
    assert len(claims) == 4
    for plan in claims:
        steps = plan.reading("job")
        assert {step.kind for step in steps} <= {"Index Scan", "Index Only Scan", "Tid Scan"}
        assert sum(step.rows + step.removed for step in steps) <= 2 * limit + 1
        assert not costly(plan, limit)


def test_a_plan_that_reads_all_jobs_is_seen(postgres: Server, crowd: str):
    """The tests above can fail."""
    watched = Watched(postgres, crowd)
    with closing(open_store(watched.url({"enable_indexscan": "off"}))) as store:
        claim(store, 1)
    assert any(costly(plan, 1) for plan in watched.plans())


@PLANNED
def test_claimers_at_the_same_time_take_at_most_their_limit_and_no_job_twice(
    database: str, planner: str
):
    url = with_settings(database, PLANNERS[planner])
    taken: list[list[str]] = []

    def drain(store: PostgresStore, lock: str) -> None:
        while jobs := claim(store, 7, lock=lock):
            taken.append([job.id for job in jobs])

    with ExitStack() as opened:
        stores = [opened.enter_context(closing(open_store(url))) for _ in range(6)]
        ids = add(stores[0], 600)
        threads = [
            threading.Thread(target=drain, args=(store, f"node{number:04}"))
            for number, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        while rest := claim(stores[0], 7):  # what another had locked, and could not take
            taken.append([job.id for job in rest])
    assert max(map(len, taken)) <= 7
    assert sorted(chain.from_iterable(taken)) == ids


@PLANNED
def test_jobs_are_claimed_in_their_order(database: str, planner: str):
    with closing(open_store(with_settings(database, PLANNERS[planner]))) as store:
        ids = add(store, 300)
        found = [job.id for _ in range(5) for job in claim(store, 60)]
    assert found == ids
