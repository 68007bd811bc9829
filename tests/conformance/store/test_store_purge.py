"""Every store: done jobs go when their time is over or space is short; others never."""

from __future__ import annotations

from store_kit import NODE, START_MS, TYPE, Yard, node

from slimq.core.limits import IDEMPOTENCY_WINDOW_MS
from slimq.store.base import NODES_KEPT_MS, JobFilter

DAY_MS = 24 * 3600 * 1000
FAR = START_MS + 1000 * DAY_MS


def test_ok_and_other_jobs_are_purged_by_their_own_age(yard: Yard):
    yard.add(count=3)
    yard.run(200, limit=1)
    yard.run(400, limit=1)
    yard.run(200, limit=1)
    yard.clock.advance(1000)
    yard.add()
    yard.run(200)
    assert yard.purge(ok_before=START_MS, failed_before=START_MS) == 0
    assert yard.purge(ok_before=START_MS + 1) == 2
    assert yard.counts() == (0, 0, 1, 1, 0)
    assert yard.purge(failed_before=START_MS + 1) == 1
    assert yard.counts() == (0, 0, 1, 0, 0)
    assert yard.store.totals().purged == 3


def test_what_is_not_done_is_never_purged(yard: Yard):
    yard.add(count=2)
    yard.add(dt=START_MS + DAY_MS)
    yard.claim(limit=1)
    yard.clock.advance(10 * DAY_MS)
    assert yard.purge(ok_before=FAR, failed_before=FAR, bytes_max=0) == 0
    assert yard.counts() == (2, 1, 0, 0, 0)


def test_a_purge_deletes_no_more_than_its_limit_the_longest_finished_first(yard: Yard):
    ids = []
    for _ in range(5):
        ids += yard.add()
        yard.run(200)
        yard.clock.advance(1)
    assert yard.purge(ok_before=FAR, limit=2) == 2
    assert yard.all_ids() == ids[:1:-1]
    assert yard.purge(ok_before=FAR, failed_before=FAR, bytes_max=0, limit=2) == 2
    assert yard.all_ids() == ids[4:]


def test_a_purged_job_is_gone_with_its_runs_and_data(yard: Yard):
    (id_,) = yard.add(data=[b"x" * 10_000])
    yard.run(500, output=b"tail of the first")
    yard.clock.advance(1000)
    yard.run(200, output=b"tail of the second")
    assert yard.purge(ok_before=FAR) == 1
    assert yard.store.job(id_) is None
    assert yard.store.jobs(JobFilter(), before="", limit=9) == []
    view = yard.store.type(TYPE)
    assert view is not None
    assert view.ok == 0
    (again,) = yard.add(data=[b"other"])
    found = yard.store.job(again)
    assert found is not None
    assert (found.data, found.runs) == (b"other", [])


def test_purging_some_jobs_of_a_batch_keeps_the_output_for_the_others(yard: Yard):
    ids = yard.add(count=3)
    yard.finish(yard.claim(), output=b"shared tail")
    assert yard.purge(ok_before=FAR, limit=2) == 2
    view = yard.store.job(ids[2])
    assert view is not None
    assert view.runs[0].output == b"shared tail"


def test_while_the_store_is_too_large_the_longest_finished_go_ok_before_others(yard: Yard):
    data = [b"x" * 3000] * 300
    yard.add("a/bad", count=300, data=list(data))
    yard.run(400, "a/bad", limit=300)
    yard.clock.advance(1)
    yard.add("a/ok", count=300, data=list(data))
    yard.run(200, "a/ok", limit=300)
    size = yard.store.totals().bytes
    assert size > 1_500_000
    assert yard.purge(bytes_max=size) == 0
    gone = 0
    while count := yard.purge(bytes_max=int(size * 0.75), limit=50):
        assert count <= 50
        gone += count
    assert yard.store.totals().bytes <= size * 0.75
    assert 100 <= gone <= 200
    assert yard.counts("a/ok") == (0, 0, 300 - gone, 0, 0)
    assert yard.counts("a/bad") == (0, 0, 0, 300, 0)
    while yard.purge(bytes_max=int(size * 0.25)):
        pass
    assert yard.counts("a/ok") == (0, 0, 0, 0, 0)
    assert 60 <= yard.counts("a/bad")[3] <= 150


def test_a_child_is_kept_while_its_parent_may_run_again(yard: Yard):
    """Else the parent's next run would add it once more."""
    (parent,) = yard.add("a/parent")
    (child,) = yard.add("a/child", parent=parent)
    (stranger,) = yard.add("a/child")
    (job,) = yard.claim("a/parent")
    yard.run(200, "a/child")
    assert yard.purge(ok_before=FAR, bytes_max=0) == 1
    assert yard.store.job(stranger) is None
    assert yard.store.job(child) is not None
    yard.finish([job], 500, type_="a/parent")
    assert yard.purge(ok_before=FAR, bytes_max=0) == 0
    yard.clock.advance(1000)
    yard.run(200, "a/parent")
    assert yard.purge(ok_before=FAR) == 2
    assert yard.store.job(child) is None


def test_a_child_whose_parent_is_gone_is_purged(yard: Yard):
    (parent,) = yard.add("a/parent")
    yard.run(200, "a/parent")
    assert yard.purge(ok_before=FAR) == 1
    yard.add("a/child", parent=parent)
    yard.run(200, "a/child")
    assert yard.purge(ok_before=FAR) == 1


def test_keys_are_forgotten_after_their_window_and_aliases_with_the_jobs(yard: Yard):
    won, lost = (yard.new(key="k", digest="d") for _ in range(2))
    yard.ingest(won, lost)
    yard.run(200)
    yard.clock.advance(IDEMPOTENCY_WINDOW_MS + 1)
    yard.purge()
    assert yard.store.job(lost.ids[0]) is not None
    assert yard.new(key="k", digest="d") is not None
    assert yard.ingest(yard.new(key="k", digest="d")).added == 1
    assert yard.purge(ok_before=FAR, failed_before=FAR) == 1
    assert yard.store.job(lost.ids[0]) is None


def test_nodes_that_died_long_ago_are_forgotten(yard: Yard):
    yard.store.beat(node("deadNODE"))
    yard.clock.advance(NODES_KEPT_MS + 1)
    yard.store.beat(node(NODE))
    yard.purge()
    assert [found.sysid for found in yard.store.nodes()] == [NODE]


def test_the_ids_of_a_replayed_request_are_found_as_long_as_its_jobs_wait(yard: Yard):
    won, lost = (yard.new(count=3, dt=FAR, key="k", digest="d") for _ in range(2))
    yard.ingest(won, lost)
    yard.store.cancel(won.ids[:2])
    for _ in range(3):
        yard.clock.advance(40 * DAY_MS)
        past = yard.now - 30 * DAY_MS
        yard.purge(ok_before=past, failed_before=past)
    view = yard.store.job(lost.ids[2])
    assert view is not None
    assert view.id == won.ids[2]
