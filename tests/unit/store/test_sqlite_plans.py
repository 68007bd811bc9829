"""What the engine asks of SQLite goes through its indexes, whatever waits or is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest
from sqlite_kit import FOR_EVER, NODE, START_MS, TYPE, Opener, claim, finish, leases, raw

from slimq.core.job import Job
from slimq.core.limits import LEASE_MS
from slimq.store.base import JobFilter
from slimq.store.sqlite import SqliteStore

MANY = 3000


class Spy:
    """Sees the statements of all connections that are made, and counts their steps."""

    def __init__(self) -> None:
        self.statements: dict[str, Any] = {}
        self.steps = 0
        self.calls = 0

    def watch(self, db: apsw.Connection) -> None:
        db.exec_trace = self._see
        db.set_progress_handler(self._step, 1, id=self)

    def _see(self, _cursor: apsw.Cursor, sql: str, bindings: Any) -> bool:
        self.statements[sql] = bindings
        self.calls += 1
        return True

    def _step(self) -> bool:
        self.steps += 1
        return False

    def cost(self, action: Callable[[], Any]) -> int:
        before = self.steps
        action()
        return self.steps - before

    def statements_of(self, action: Callable[[], Any]) -> int:
        before = self.calls
        action()
        return self.calls - before


@pytest.fixture
def spy() -> Iterator[Spy]:
    spy = Spy()
    apsw.connection_hooks.append(spy.watch)
    yield spy
    apsw.connection_hooks.remove(spy.watch)


def plans(opener: Opener, spy: Spy) -> dict[str, list[str]]:
    """Return the plan of every statement that was seen and that has one."""
    found = {}
    with raw(opener.path) as db:
        db.exec_trace = None
        for sql, bindings in spy.statements.items():
            if sql.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH")):
                rows = db.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)
                found[sql] = [str(row[3]) for row in rows]
    return found


def prepare(opener: Opener, spy: Spy) -> SqliteStore:
    """A store with jobs in all states; what was seen so far is forgotten."""
    store = opener.open()
    for type_ in (TYPE, "a/b", "b/c"):
        opener.add(store, type_, count=50)
        finish(store, claim(store, type_, 10), type_=type_)
        finish(store, claim(store, type_, 10), 400, type_=type_)
        claim(store, type_, 10)
    spy.statements.clear()
    return store


# The running jobs are few. What people do may count the types, and take any done jobs.
WHOLE_TABLE = re.compile(
    r"SCAN (job|run|large|type|output|alias)\b(?!.* INDEX (job_running|job_done_bad))"
)
TYPES_COUNTED = ("retry by filter", "cancel by filter")
ENGINE: dict[str, Callable[[SqliteStore, Opener], Any]] = {
    "ingest": lambda store, opener: opener.add(store, count=5, key="k", digest="d"),
    "ingest large": lambda store, opener: opener.add(
        store, data=[b"x" * 5000], parent="p", trace="t"
    ),
    "due": lambda store, _: store.due(FOR_EVER, "a", 5),
    "due, many": lambda store, _: store.due(FOR_EVER, "a", 1),
    "claim": lambda store, _: claim(store, limit=5, full=3, window_ms=1),
    "claim ordered": lambda store, _: claim(store, "a/b", ordered=True),
    "renew": lambda store, _: store.renew(NODE, leases(claim(store)), lease_ms=1),
    "renew lost": lambda store, _: store.renew("other", leases(claim(store)), lease_ms=1),
    "release": lambda store, _: store.release(NODE, leases(claim(store))),
    "finish": lambda store, _: finish(store, claim(store)),
    "finish few": lambda store, _: finish(store, claim(store, limit=3)),
    "free": lambda store, opener: (opener.clock.advance(LEASE_MS), store.free(10)),
    "free node": lambda store, _: store.free(10, lock=NODE),
    "purge": lambda store, _: store.purge(
        ok_before=START_MS + 1, failed_before=START_MS + 1, bytes_max=1, limit=10
    ),
    "cancel": lambda store, opener: store.cancel(opener.add(store)),
    "retry by filter": lambda store, _: store.change_where("retry", JobFilter(outcome="failed"), 9),
    "cancel by filter": lambda store, _: store.change_where("cancel", JobFilter(client="acme"), 9),
    "purge type": lambda store, _: store.purge_type(TYPE, 3),
    "job": lambda store, opener: [store.job(id_) for id_ in (*opener.add(store), "no such id")],
    "key": lambda store, _: store.key_use(TYPE, "k"),
}


@pytest.mark.parametrize("action", ENGINE)
def test_no_statement_looks_at_all_jobs_or_sorts_them(opener: Opener, spy: Spy, action: str):
    store = prepare(opener, spy)
    ENGINE[action](store, opener)
    seen = plans(opener, spy)
    assert any(seen.values())
    for sql, plan in seen.items():
        for step in plan:
            if not (step == "SCAN type" and action in TYPES_COUNTED):
                assert not WHOLE_TABLE.match(step), f"{step}: {sql}"
            assert "TEMP B-TREE" not in step, f"{step}: {sql}"


def test_the_spy_sees_a_scan(opener: Opener, spy: Spy):
    """The test above can fail."""
    store = prepare(opener, spy)
    store.jobs(JobFilter(state="running"), before="", limit=3)
    steps = [step for plan in plans(opener, spy).values() for step in plan]
    assert any("TEMP B-TREE" in step for step in steps)


def test_the_cost_of_a_claim_does_not_grow_with_the_backlog(opener: Opener, spy: Spy):
    store = opener.open()
    opener.add(store, count=200)
    few = spy.cost(lambda: claim(store, limit=50))
    opener.add(store, count=MANY)
    many = spy.cost(lambda: claim(store, limit=50))
    assert many < few * 1.1


def test_the_cost_of_a_finish_does_not_grow_with_what_is_done(opener: Opener, spy: Spy):
    store = opener.open()
    opener.add(store, count=MANY)
    jobs = claim(store, limit=50)
    few = spy.cost(lambda: finish(store, jobs))
    while jobs := claim(store, limit=500):
        finish(store, jobs)
    opener.add(store, count=50)
    jobs = claim(store, limit=50)
    assert spy.cost(lambda: finish(store, jobs)) < few * 1.1


def test_the_cost_of_due_does_not_grow_with_jobs_or_with_types_that_wait_for_later(
    opener: Opener, spy: Spy
):
    store = opener.open()
    opener.add(store)
    few = spy.cost(lambda: store.due(START_MS, "", 10))
    opener.add(store, count=MANY)
    for number in range(300):
        opener.add(store, f"later/t{number}")
        claim(store, f"later/t{number}")
    later = JobFilter(client="later")
    assert store.change_where("cancel", later, 1000) == 300
    assert spy.cost(lambda: store.due(START_MS, "", 10)) < few * 1.1


def test_a_page_of_due_costs_no_more_when_there_are_more_pages(opener: Opener, spy: Spy):
    store = opener.open()

    def fill(count: int, name: str) -> None:
        for number in range(count):
            opener.add(store, f"{name}/t{number:04}")

    fill(30, "a")
    few = spy.cost(lambda: store.due(START_MS, "", 10))
    fill(600, "b")
    many = spy.cost(lambda: store.due(START_MS, "b/t0300", 10))
    assert many < few * 1.5


def test_the_cost_of_claims_does_not_grow_with_the_number_of_types(opener: Opener, spy: Spy):
    store = opener.open()
    opener.add(store, count=100)
    few = spy.cost(lambda: claim(store, limit=50))
    for number in range(300):
        opener.add(store, f"other/t{number}", count=2)
    assert spy.cost(lambda: claim(store, limit=50)) < few * 1.1


def test_a_batch_takes_the_same_number_of_statements_whatever_its_size(opener: Opener, spy: Spy):
    """Each statement has to win back the GIL from a busy event loop."""
    store = opener.open()
    opener.add(store)
    claim(store)

    def count(size: int) -> list[int]:
        jobs: list[Job] = []
        return [
            spy.statements_of(lambda: opener.add(store, count=size)),
            spy.statements_of(lambda: jobs.extend(claim(store, limit=size))),
            spy.statements_of(lambda: store.renew(NODE, leases(jobs), lease_ms=LEASE_MS)),
            spy.statements_of(lambda: finish(store, jobs)),
        ]

    assert count(3) == count(500)
    assert max(count(100)) < 15
