"""Ingest: what is in the journal gets into the store, exactly once and in order."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from engine_kit import DAY_MS, TYPE, MakeRig, Rig

from slimq.core.jobid import child_id
from slimq.core.limits import INGEST_JOBS_MAX, MIB
from slimq.errors import JournalFailed, StoreUnavailable
from slimq.ingest import Ingester
from slimq.journal.reader import Entry, JournalReader
from slimq.journal.record import JobLine, Position
from slimq.store.base import Cursor, NewJobs
from slimq.store.memory import MemoryStore

LARGE = 2 * INGEST_JOBS_MAX + 7


def ingested(rig: Rig) -> list[tuple[str, bytes]]:
    """Return ids and data that the store took, in the order in which it did."""
    loads: list[list[NewJobs]] = [args[3] for args, _ in rig.store.called("ingest")]
    return [pair for jobs in loads for new in jobs for pair in zip(new.ids, new.data, strict=True)]


def numbered(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


def damage(rig: Rig, segment: int, text: bytes) -> None:
    """Change one byte of the body that holds `text`."""
    path = rig.segment_files()[segment]
    whole = path.read_bytes()
    assert whole.count(text) == 1
    path.write_bytes(whole.replace(text, text[:-1] + b"~"))


def reopen_journal(rig: Rig) -> None:
    """Begin a new segment, as a restart does, and ingest on with the same cursor."""
    rig.writer.close()
    rig.open_journal()
    rig.ingester = rig.new_ingester()


def test_every_line_of_many_small_records_comes_in_once_with_its_id_and_in_order(
    rig: Rig,
) -> None:
    expected: list[tuple[str, bytes]] = []
    for n in range(300):
        lines = [b"%d-%d" % (n, m) for m in range(n % 4 + 1)]
        expected += zip(rig.add(*lines, type=f"acme/t{n % 3}"), lines, strict=True)
    rig.ingest_all()
    assert ingested(rig) == expected
    assert all(rig.job(id_).data == data for id_, data in expected)
    assert rig.ingester.step() is None
    assert rig.ingester.position == rig.writer.end


@pytest.mark.parametrize("delay_ms", [0, 60_000])
def test_a_wall_clock_that_is_set_forward_defers_no_job(rig: Rig, delay_ms: int) -> None:
    rig.clock.wall += 3_600_000
    due_at = rig.clock.wall_ms() + delay_ms if delay_ms else 0
    ids = rig.add(b"a line", dt=due_at)
    ids += rig.add_jobs(JobLine("acme/mail", data="says itself what it is", dt=due_at))
    rig.ingester.step()
    assert [rig.job(id_).dt - rig.memory.now() for id_ in ids] == [delay_ms, delay_ms]


class CountingReader(JournalReader):
    """A reader that counts how often it is asked."""

    count = 0

    def read(self, *args: Any) -> tuple[list[Entry], Position]:
        self.count += 1
        return super().read(*args)


def test_a_record_is_read_and_verified_once_however_many_steps_it_takes(rig: Rig) -> None:
    rig.reader = reader = CountingReader(rig.writer)
    rig.ingester = rig.new_ingester()
    ids = rig.add(*numbered(LARGE))
    rig.ingest_all()
    assert [id_ for id_, _ in ingested(rig)] == ids
    assert (len(rig.store.called("ingest")), reader.count) == (3, 1)


@pytest.mark.parametrize("kept", [0, 2])
def test_what_is_accepted_comes_in_although_a_part_of_the_journal_was_lost_before(
    make_rig: MakeRig, kept: int
) -> None:
    rig = make_rig(segment_bytes=100)
    for n in range(5):
        rig.add(b"%d" % n)
        rig.ingest_all()
    for path in rig.segment_files()[kept:]:
        path.unlink()
    reopen_journal(rig)
    (id_,) = rig.add(b"after the loss")
    rig.ingester.step()
    assert rig.job(id_).data == b"after the loss"
    assert rig.ingester.position == rig.writer.end


def test_a_cursor_ahead_of_the_journal_is_set_back_once_the_store_can_be_used(rig: Rig) -> None:
    rig.store.ingest(rig.writer.name, Cursor(), Cursor(1_000_000), [])
    ids = rig.add(b"accepted while the store was down")
    rig.store.down = True
    with pytest.raises(StoreUnavailable):
        rig.ingester.step()
    rig.store.down = False
    rig.ingest_all()
    assert [id_ for id_, _ in ingested(rig)] == ids


def test_small_records_of_one_type_go_in_together(rig: Rig) -> None:
    for n in range(50):
        rig.add(b"%d" % n)
    rig.ingest_all()
    ((args, _),) = rig.store.called("ingest")
    assert [len(new.ids) for new in args[3]] == [50]


@pytest.mark.parametrize("line", [b"", b"# no comment", b"\r", b"a\0b", b"\xff\xfe", b"|"])
def test_no_line_is_dropped_or_changed_for_its_content(rig: Rig, line: bytes) -> None:
    ids = rig.add(line, b"next")
    rig.ingest_all()
    assert ingested(rig) == list(zip(ids, [line, b"next"], strict=True))


def test_heads_tell_when_the_earliest_new_job_of_each_type_is_due(rig: Rig) -> None:
    now = rig.clock.wall_ms()
    rig.add(b"later", dt=now + 500)
    rig.add(b"now")
    rig.add(b"other", type="acme/other", dt=now + 900)
    result = rig.ingester.step()
    assert result is not None
    assert result.heads == {TYPE: now, "acme/other": now + 900}
    assert (result.added, result.skipped) == (3, 0)


def test_a_deferred_job_is_due_when_its_request_said(rig: Rig) -> None:
    at = rig.clock.wall_ms() + 90_000
    (deferred,) = rig.add(b"deferred", dt=at)
    (ready,) = rig.add(b"ready")
    rig.ingest_all()
    assert (rig.job(deferred).dt, rig.job(deferred).due_at) == (at, at)
    assert rig.job(ready).dt == rig.clock.wall_ms()


def test_a_trace_goes_with_the_jobs_of_its_request_only(rig: Rig) -> None:
    (first,) = rig.add(b"a", trace="00-aa")
    (second,) = rig.add(b"b")
    rig.ingest_all()
    assert (rig.job(first).trace, rig.job(second).trace) == ("00-aa", "")


# A record larger than one transaction.


def test_a_record_larger_than_a_transaction_comes_in_slices(rig: Rig) -> None:
    lines = numbered(LARGE)
    ids = [*rig.add(b"before"), *rig.add(*lines), *rig.add(b"after")]
    counts = []
    while rig.ingester.behind:
        result = rig.ingester.step()
        assert result is not None
        counts.append(result.added)
    assert max(counts) <= INGEST_JOBS_MAX
    assert sum(counts) == LARGE + 2
    assert ingested(rig) == list(zip(ids, [b"before", *lines, b"after"], strict=True))


def test_the_cursor_inside_a_record_is_not_yet_behind_it(rig: Rig) -> None:
    rig.add(b"before")
    start = rig.writer.end
    rig.add(*numbered(LARGE))
    rig.ingester.step()
    cursor = rig.memory.cursor(rig.writer.name)
    assert cursor[:2] == start == rig.ingester.position
    assert cursor.lines == INGEST_JOBS_MAX - 1
    assert rig.ingester.behind


def test_a_store_that_fails_between_the_slices_gets_each_line_once(rig: Rig) -> None:
    ids = rig.add(*numbered(LARGE))
    rig.store.fail("ingest", after=1, times=2)
    failures = 0
    while rig.ingester.behind:
        before = rig.memory.cursor(rig.writer.name)
        try:
            rig.ingester.step()
        except StoreUnavailable:
            failures += 1
            assert rig.memory.cursor(rig.writer.name) == before
    assert failures == 2
    assert ingested(rig) == list(zip(ids, numbered(LARGE), strict=True))


def test_a_restart_in_the_middle_of_a_record_goes_on_where_it_was(rig: Rig) -> None:
    ids = rig.add(*numbered(LARGE))
    while rig.ingester.behind:
        rig.ingester.step()
        reopen_journal(rig)
        if rig.memory.cursor(rig.writer.name)[:2] == rig.writer.end:
            break
    assert ingested(rig) == list(zip(ids, numbered(LARGE), strict=True))


def test_large_lines_come_in_by_their_bytes(rig: Rig) -> None:
    lines = [b"%d" % n * MIB for n in range(9)]
    ids = rig.add(*lines)
    results = []
    while rig.ingester.behind:
        results.append(rig.ingester.step())
    assert len(results) > 1
    assert ingested(rig) == list(zip(ids, lines, strict=True))


# Records whose lines say themselves what they are.


def test_explicit_jobs_come_in_as_they_say(rig: Rig) -> None:
    now = rig.clock.wall_ms()
    parent = rig.add(b"parent")[0]
    own = child_id(parent, 0)
    binary = base64.b64encode(b"\xff\x00").decode()
    ids = rig.add_jobs(
        JobLine("acme/a", "plain"),
        JobLine("acme/b", "later", dt=now + 700),
        JobLine("acme/c", binary, base64=True),
        JobLine("acme/d", "child", id=own, parent=parent, trace="00-own"),
        dt=now + 300,
        trace="00-all",
    )
    rig.ingest_all()
    jobs = [rig.job(id_) for id_ in ids]
    assert [job.type for job in jobs] == ["acme/a", "acme/b", "acme/c", "acme/d"]
    assert [job.data for job in jobs] == [b"plain", b"later", b"\xff\x00", b"child"]
    assert [job.dt for job in jobs] == [now + 300, now + 700, now + 300, now + 300]
    assert [job.trace for job in jobs] == ["00-all"] * 3 + ["00-own"]
    assert (jobs[3].id, jobs[3].parent) == (own, parent)


def test_many_explicit_jobs_come_in_slices_each_with_its_id(rig: Rig) -> None:
    ids = rig.add_jobs(*(JobLine(TYPE, str(n)) for n in range(INGEST_JOBS_MAX + 5)))
    rig.ingester.step()
    assert len(ingested(rig)) == INGEST_JOBS_MAX
    reopen_journal(rig)
    rig.ingest_all()
    assert ingested(rig) == list(zip(ids, numbered(INGEST_JOBS_MAX + 5), strict=True))


# Idempotency-Keys.


def test_keys_are_forgotten_after_the_commit_and_never_before(rig: Rig) -> None:
    rig.add(b"keyed", key="k1", digest="d1")
    rig.add(b"not keyed")
    rig.add_jobs(JobLine(TYPE, "x", key="k2", digest="d2"))
    rig.store.fail("ingest")
    with pytest.raises(StoreUnavailable):
        rig.ingester.step()
    assert rig.forgotten == []
    rig.events.clear()
    rig.ingester.step()
    assert rig.events == ["ingest", "forget_keys"]
    assert [(header.key, header.kind) for header in rig.forgotten] == [
        ("k1", "lines"),
        ("", "jobs"),
    ]
    assert rig.memory.key_use(TYPE, "k1") is not None
    assert rig.memory.key_use(TYPE, "k2") is not None


def test_the_key_of_a_large_record_is_forgotten_when_all_of_it_is_in(rig: Rig) -> None:
    ids = rig.add(*numbered(LARGE), key="k1", digest="d1")
    told = []
    while rig.ingester.behind:
        rig.ingester.step()
        told.append(len(rig.forgotten))
    assert told == [0, 0, 1]
    assert [id_ for id_, _ in ingested(rig)] == ids
    use = rig.memory.key_use(TYPE, "k1")
    assert use is not None
    assert (use.first, use.count) == (ids[0], LARGE)


def test_the_jobs_of_a_replayed_key_are_not_added_again(rig: Rig) -> None:
    (owner,) = rig.add(b"once", key="k1", digest="d1")
    (replay,) = rig.add(b"once", key="k1", digest="d1")
    result = rig.ingester.step()
    assert result is not None
    assert (result.added, result.skipped, result.replays) == (1, 1, 1)
    assert rig.job(replay).id == owner


def test_a_keyed_request_does_not_go_in_with_its_neighbours(rig: Rig) -> None:
    rig.add(b"plain")
    rig.add(b"keyed", key="k1")
    rig.add(b"plain")
    rig.ingester.step()
    ((args, _),) = rig.store.called("ingest")
    assert [(new.key, len(new.ids)) for new in args[3]] == [("", 1), ("k1", 1), ("", 1)]


# A store that fails, or falls back.


@pytest.mark.parametrize("name", ["cursor", "ingest"])
def test_a_store_that_cannot_be_used_moves_nothing(rig: Rig, name: str) -> None:
    (id_,) = rig.add(b"data")
    rig.store.fail(name)
    with pytest.raises(StoreUnavailable):
        rig.ingester.step()
    assert rig.ingester.behind
    assert rig.memory.job(id_) is None
    rig.ingester.step()
    assert rig.job(id_).data == b"data"


def store_of_now(rig: Rig) -> MemoryStore:
    """Return a store that knows the journal as it is now: an earlier one, soon."""
    store = MemoryStore(rig.clock)
    ingester = Ingester(
        rig.writer, rig.reader, store, retain_ms=DAY_MS, forget_keys=lambda headers: None
    )
    while ingester.behind:
        ingester.step()
    return store


def fall_back(rig: Rig, earlier: MemoryStore) -> None:
    rig.memory = rig.store.inner = earlier


def test_a_store_that_fell_back_is_fed_again_from_the_journal(rig: Rig) -> None:
    first = rig.add(b"first")
    rig.ingest_all()
    earlier = store_of_now(rig)
    lost = rig.add(*numbered(40))
    rig.ingest_all()
    fall_back(rig, earlier)
    new = rig.add(b"new")
    assert rig.ingester.step() is None
    assert rig.ingester.position == earlier.cursor(rig.writer.name)[:2]
    rig.ingest_all()
    assert [rig.job(id_).id for id_ in [*first, *lost, *new]] == [*first, *lost, *new]
    assert rig.memory.totals().waiting == 42


def test_what_a_store_lost_by_falling_back_is_not_deleted_from_the_journal(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(segment_bytes=300, retain_ms=0)
    rig.add(b"first")
    rig.ingest_all()
    earlier = store_of_now(rig)
    lost = [*rig.add(b"x" * 400), *rig.add(b"y" * 400)]
    rig.ingest_all()
    fall_back(rig, earlier)
    new = rig.add(b"z")
    rig.clock.advance(1000)
    rig.ingester.step()
    assert rig.ingester.keep_safe()
    rig.ingest_all()
    assert [rig.job(id_).id for id_ in [*lost, *new]] == [*lost, *new]


def test_what_is_fed_again_is_behind_a_new_barrier(rig: Rig) -> None:
    rig.add(b"first")
    rig.ingest_all()
    earlier = store_of_now(rig)
    rig.add(*numbered(INGEST_JOBS_MAX))
    rig.ingest_all()
    assert rig.ingester.keep_safe()
    safe = rig.ingester.position
    fall_back(rig, earlier)
    rig.add(b"new")
    while rig.ingester.step() is None:
        pass
    assert rig.ingester.position == safe
    rig.store.forget_calls()
    assert rig.ingester.keep_safe()
    assert rig.events == ["barrier"]


# Damage.


def test_damage_in_an_older_segment_is_passed(rig: Rig) -> None:
    before = rig.add(b"before")
    rig.add(b"rotten")
    after = rig.add(b"after")
    reopen_journal(rig)
    last = rig.add(b"last")
    damage(rig, 0, b"rotten")
    rig.ingest_all()
    assert [id_ for id_, _ in ingested(rig)] == [*before, *after, *last]
    assert not rig.ingester.behind


def test_damage_at_the_end_of_the_journal_is_passed(rig: Rig) -> None:
    first = rig.add(b"first")
    rig.add(b"rotten")
    damage(rig, 0, b"rotten")
    rig.ingest_all()
    assert [id_ for id_, _ in ingested(rig)] == first
    assert rig.ingester.position == rig.writer.end


def test_a_record_that_rots_while_it_comes_in_slices_is_passed(rig: Rig) -> None:
    ids = rig.add(*numbered(LARGE), b"rotten")
    rig.ingester.step()
    damage(rig, 0, b"rotten")
    rig.ingester = rig.new_ingester()
    for _ in range(3):
        rig.ingester.step()
    assert not rig.ingester.behind
    assert [id_ for id_, _ in ingested(rig)] == ids[:INGEST_JOBS_MAX]
    after = rig.add(b"after")
    rig.ingest_all()
    assert rig.job(after[0]).data == b"after"


def test_a_journal_that_cannot_be_read_is_not_passed_over(rig: Rig) -> None:
    (id_,) = rig.add(b"data")
    (path,) = rig.segment_files()
    away = path.rename(path.with_suffix(".away"))
    with pytest.raises(JournalFailed):
        rig.ingester.step()
    away.rename(path)
    rig.ingest_all()
    assert rig.job(id_).data == b"data"


# Keeping it safe, and deleting segments.


def fill_segments(rig: Rig, count: int) -> None:
    for n in range(count):
        rig.add(b"%d" % n * 400)


def test_segments_go_when_they_are_ingested_safe_and_past_retention(make_rig: MakeRig) -> None:
    rig = make_rig(segment_bytes=300, retain_ms=1000)
    fill_segments(rig, 3)
    rig.clock.advance(DAY_MS)  # the store was down so long: it has them only now
    rig.ingest_all()
    assert rig.ingester.keep_safe()
    rig.clock.advance(500)
    fill_segments(rig, 2)
    rig.ingest_all()
    assert rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 5
    rig.clock.advance(600)
    assert rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 2
    rig.clock.advance(DAY_MS)
    assert rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 1


def test_no_segment_goes_without_a_barrier(make_rig: MakeRig) -> None:
    rig = make_rig(segment_bytes=300, retain_ms=0)
    fill_segments(rig, 3)
    rig.ingest_all()
    rig.clock.advance(1)
    rig.store.safe = False
    assert not rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 3
    rig.store.fail("barrier")
    with pytest.raises(StoreUnavailable):
        rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 3
    rig.store.safe = True
    assert rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 1


def test_a_segment_that_is_not_ingested_stays(make_rig: MakeRig) -> None:
    rig = make_rig(segment_bytes=300, retain_ms=0)
    fill_segments(rig, 2)
    rig.ingest_all()
    fill_segments(rig, 2)
    rig.clock.advance(1)
    assert rig.ingester.behind
    assert rig.ingester.keep_safe()
    assert rig.store.called("barrier")
    assert [path.name[:8] for path in rig.segment_files()] == ["00000003", "00000004"]
    rig.ingest_all()
    assert rig.memory.totals().waiting == 4


def test_a_segment_whose_last_record_is_half_in_stays(make_rig: MakeRig) -> None:
    rig = make_rig(segment_bytes=300, retain_ms=0)
    rig.add(*numbered(LARGE))
    rig.add(b"next segment")
    rig.ingester.step()
    rig.clock.advance(1)
    assert rig.ingester.keep_safe()
    assert len(rig.segment_files()) == 2
    rig.ingest_all()
    assert rig.memory.totals().waiting == LARGE + 1


def test_no_barrier_is_made_for_what_is_safe_already(rig: Rig) -> None:
    rig.add(b"a")
    rig.ingest_all()
    assert rig.ingester.keep_safe()
    assert rig.ingester.keep_safe()
    assert len(rig.store.called("barrier")) == 1


def test_a_replay_from_an_earlier_segment_adds_nothing_twice(rig: Rig) -> None:
    ids = rig.add(*numbered(20))
    rig.ingest_all()
    cursor = rig.memory.cursor(rig.writer.name)
    rig.memory.ingest(rig.writer.name, cursor, Cursor(), [])
    rig.ingester = rig.new_ingester()
    result = rig.ingester.step()
    assert result is not None
    assert (result.added, result.skipped) == (0, 20)
    assert rig.memory.totals().waiting == len(ids)


def test_a_journal_is_over_when_all_is_ingested_safe_and_past_retention(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(retain_ms=1000)
    rig.add(b"a", b"b")
    rig.clock.advance(1000)
    assert not rig.ingester.is_over()
    rig.ingest_all()
    assert not rig.ingester.is_over()
    assert rig.ingester.keep_safe()
    rig.clock.advance(999)
    assert not rig.ingester.is_over()
    rig.clock.advance(1)
    assert rig.ingester.is_over()
    rig.add(b"c")
    rig.clock.advance(1000)
    assert not rig.ingester.is_over()
