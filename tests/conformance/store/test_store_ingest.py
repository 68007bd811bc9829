"""Every store: jobs come in exactly once, in order, byte for byte."""

from __future__ import annotations

import pytest
from store_kit import JOURNAL, NODE, OTHER, START_MS, TYPE, Yard, ids_of

from slimq.core.jobid import Minter
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS, LINE_MAX
from slimq.store.base import Cursor, CursorMoved, Ingested, JobFilter, KeyUse

HOUR_MS = 3600 * 1000
PAYLOADS = [
    b"",
    b"plain",
    b"#J: mail|x",
    b"\r",
    b"a\x00b\x00",
    b"a|b",
    b"\xe2\x80\xa8",
    b"\xff\xfe invalid",
    b"'; DROP TABLE job; --",
    b"x" * 2048,
    b"x" * 2049,
    b"y" * LINE_MAX,
]


def test_a_journal_that_was_never_ingested_starts_at_its_beginning(yard: Yard):
    assert yard.store.cursor("unknown") == Cursor(0, 0, 0, 0)


def test_data_comes_out_as_it_came_in(yard: Yard):
    ids = yard.add(count=len(PAYLOADS), data=list(PAYLOADS))
    views = [yard.store.job(id_) for id_ in ids]
    assert [view.data for view in views if view] == PAYLOADS
    claimed = yard.claim(bytes_max=1 << 30)
    assert [job.data for job in claimed] == PAYLOADS
    assert ids_of(claimed) == ids


def test_all_empty_data_is_data(yard: Yard):
    yard.add(count=3, data=[b"", b"", b""])
    assert [job.data for job in yard.claim()] == [b"", b"", b""]


def test_what_is_added_and_when_it_is_due_is_told(yard: Yard):
    soon, later = yard.new(count=2), yard.new(count=3, dt=START_MS + 5000)
    other = yard.new("acme/sms", dt=START_MS + 9000)
    told = yard.ingest(later, soon, other)
    assert told == Ingested(6, 0, 0, {TYPE: START_MS, "acme/sms": START_MS + 9000})


def test_nothing_at_all_may_be_ingested(yard: Yard):
    assert yard.ingest() == Ingested(0, 0, 0, {})
    assert yard.store.cursor(JOURNAL) == Cursor(0, 1)


def test_a_stale_cursor_changes_nothing(yard: Yard):
    yard.store.ingest(JOURNAL, Cursor(), Cursor(0, 100, 7, 3), [yard.new()])
    with pytest.raises(CursorMoved):
        yard.store.ingest(JOURNAL, Cursor(), Cursor(0, 200), [yard.new(count=5)])
    assert yard.store.cursor(JOURNAL) == Cursor(0, 100, 7, 3)
    assert yard.store.totals().waiting == 1


@pytest.mark.parametrize("yard", ["sqlite", "postgres"], indirect=True)
def test_an_ingest_that_fails_moves_no_cursor(yard: Yard):
    yard.add()
    cursor = yard.store.cursor(JOURNAL)
    torn = yard.new(count=2, data=[b"one has an id and no data"])
    with pytest.raises(AssertionError):
        yard.ingest(yard.new(), torn)
    assert yard.store.cursor(JOURNAL) == cursor
    assert yard.store.totals().waiting == 1
    assert yard.ingest(yard.new()).added == 1


def test_cursors_of_journals_are_apart(yard: Yard):
    yard.store.ingest("one", Cursor(), Cursor(1, 2), [])
    yard.store.ingest("two", Cursor(), Cursor(3, 4), [])
    assert (yard.store.cursor("one"), yard.store.cursor("two")) == (Cursor(1, 2), Cursor(3, 4))


def test_ids_that_are_there_are_skipped_and_stay_as_they_are(yard: Yard):
    new = yard.new(count=3, parent="", data=[b"a", b"b", b"c"])
    yard.ingest(new)
    jobs = yard.claim(limit=1)
    yard.finish(jobs)
    both = yard.new(count=5)
    both.ids[:3] = new.ids
    assert yard.ingest(both) == Ingested(2, 3, 0, {TYPE: START_MS})
    assert yard.counts() == (4, 0, 1, 0, 0)
    assert yard.ingest(new) == Ingested(0, 3, 0, {})
    view = yard.store.job(new.ids[0])
    assert view is not None
    assert (view.status, view.data) == (200, b"a")


def test_many_requests_of_many_types_go_in_together(yard: Yard):
    jobs = [yard.new(f"client{n % 7}/type{n % 50}", count=n % 4, trace=f"t{n}") for n in range(400)]
    told = yard.ingest(*jobs)
    assert told.added == sum(len(new.ids) for new in jobs) == yard.store.totals().waiting
    traces = {id_: new.trace for new in jobs for id_ in new.ids}
    for type_ in told.heads:
        for job in yard.claim(type_):
            assert job.trace == traces[job.id]


def test_parent_and_trace_are_kept(yard: Yard):
    parent = yard.add()[0]
    (child,) = yard.add(parent=parent, trace="00-abc")
    view = yard.store.job(child)
    assert view is not None
    assert (view.parent, view.trace) == (parent, "00-abc")


def test_a_key_names_the_request_that_owns_it(yard: Yard):
    new = yard.new(count=3, key="k1", digest="d1")
    yard.ingest(new)
    assert yard.store.key_use(TYPE, "k1") == KeyUse(new.ids[0], 3, "d1")
    assert yard.other.key_use(TYPE, "k1") == KeyUse(new.ids[0], 3, "d1")
    assert yard.store.key_use(TYPE, "k2") is None
    assert yard.store.key_use("acme/sms", "k1") is None
    assert yard.store.key_use("no/such", "k1") is None


def test_two_nodes_that_accepted_one_key_make_one_job_and_both_ids_resolve(yard: Yard):
    won = yard.new(count=3, key="k", digest="d", data=[b"0", b"1", b"2"])
    lost = yard.new(count=3, key="k", digest="d", data=[b"0", b"1", b"2"])
    block = Minter(OTHER).block(3, START_MS)
    lost.ids, lost.record = block.ids(), block.first
    yard.ingest(won)
    assert yard.ingest(lost, store=yard.other) == Ingested(0, 3, 3, {})
    assert yard.store.totals().waiting == 3
    for index in range(3):
        view = yard.store.job(lost.ids[index])
        assert view is not None
        assert (view.id, view.data) == (won.ids[index], str(index).encode())
    assert yard.store.job(block.id_at(0)[:-1] + "~") is None


def test_two_requests_with_one_key_in_one_ingest_make_one_job(yard: Yard):
    won, lost = (yard.new(count=2, key="k", digest="d") for _ in range(2))
    assert yard.ingest(won, lost) == Ingested(2, 2, 2, {TYPE: START_MS})
    view = yard.store.job(lost.ids[1])
    assert view is not None
    assert view.id == won.ids[1]


def test_a_request_in_slices_is_not_its_own_replay(yard: Yard):
    whole = yard.new(count=4, key="k", digest="d")
    for start in (0, 2):
        part = yard.new(count=0)
        part.ids, part.data = whole.ids[start : start + 2], whole.data[start : start + 2]
        part.record, part.count, part.key, part.digest = whole.record, 4, "k", "d"
        assert yard.ingest(part).added == 2
    assert yard.store.totals().waiting == 4


def test_a_replay_in_slices_resolves_as_a_whole(yard: Yard):
    won, lost = (yard.new(count=4, key="k", digest="d") for _ in range(2))
    yard.ingest(won)
    for start in (0, 2):
        part = yard.new(count=0)
        part.ids, part.data = lost.ids[start : start + 2], lost.data[start : start + 2]
        part.record, part.count, part.key, part.digest = lost.record, 4, "k", "d"
        assert yard.ingest(part) == Ingested(0, 2, 2, {})
    views = [yard.store.job(id_) for id_ in lost.ids]
    assert [view.id for view in views if view] == won.ids


def test_the_same_key_with_another_body_was_acknowledged_and_runs(yard: Yard):
    first, second = yard.new(key="k", digest="d1"), yard.new(key="k", digest="d2")
    assert yard.ingest(first, second).added == 2
    use = yard.store.key_use(TYPE, "k")
    assert use is not None
    assert use.first == first.ids[0]


def test_a_key_is_of_one_type(yard: Yard):
    jobs = [yard.new(type_, key="k", digest="d") for type_ in (TYPE, "acme/sms", "other/mail")]
    assert yard.ingest(*jobs).added == 3


def test_a_key_is_forgotten_a_day_after_it_was_accepted(yard: Yard):
    yard.add(key="k", digest="d")
    yard.clock.advance(IDEMPOTENCY_WINDOW_MS - 1)
    assert yard.store.key_use(TYPE, "k") is not None
    yard.clock.advance(1)
    assert yard.store.key_use(TYPE, "k") is None
    again = yard.new(key="k", digest="d")
    assert yard.ingest(again).added == 1
    use = yard.store.key_use(TYPE, "k")
    assert use is not None
    assert use.first == again.ids[0]


def test_the_window_counts_from_accept_however_late_the_ingest_is(yard: Yard):
    """The engine was stopped for days; what was accepted within the window is a replay."""
    first = yard.new(key="k", digest="d")
    yard.clock.advance(HOUR_MS)
    replay = yard.new(key="k", digest="d")
    yard.clock.advance(IDEMPOTENCY_WINDOW_MS)
    fresh = yard.new(key="k", digest="d")
    yard.clock.advance(48 * HOUR_MS)
    assert yard.ingest(first).added == 1
    yard.purge()
    assert yard.ingest(replay).replays == 1
    assert yard.ingest(fresh).added == 1


def test_the_ids_of_a_replay_are_those_of_the_owner_for_changes_too(yard: Yard):
    won, lost = (yard.new(count=2, key="k", digest="d") for _ in range(2))
    yard.ingest(won, lost)
    assert yard.store.cancel([lost.ids[1]]) == [lost.ids[1]]
    view = yard.store.job(won.ids[1])
    assert view is not None
    assert view.status == 499
    assert yard.store.retry([lost.ids[1]]) == {TYPE: yard.now}


def test_another_node_sees_what_was_ingested(yard: Yard):
    ids = yard.add(count=3)
    found = yard.other.jobs(JobFilter(), before="", limit=10)
    assert [view.id for view in found] == ids[::-1]
    assert ids_of(yard.claim(lock=OTHER)) == ids
    assert yard.claim(lock=NODE) == []
