"""Room behind the end of a segment: laid out in silence, and no part of the journal."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from journal_kit import MIB, Bench

from slimq.core.limits import LAY_OUT_MAX, LAY_OUT_MIN, LAY_OUT_STEP
from slimq.journal.append import Append
from slimq.journal.check import FolderView
from slimq.journal.commit import GroupCommit
from slimq.journal.recovery import Recovery
from slimq.system.clock import SystemClock


def lay_out(bench: Bench) -> int:
    """Lay out all the room that is wanted; return in how many steps."""
    steps = 0
    while bench.writer.wants_room:
        bench.writer.lay_out(quiet=True)
        steps += 1
    return steps


def size_of(bench: Bench) -> int:
    """Return the length of the newest segment's file."""
    return bench.segment_files()[-1].stat().st_size


def room_of(bench: Bench) -> int:
    return size_of(bench) - bench.writer.end.offset


def reopened(bench: Bench) -> Recovery:
    bench.crash()
    return bench.writer.open()


def test_what_is_appended_into_room_is_read_and_makes_the_file_no_longer(bench: Bench) -> None:
    bench.commit(b"one\n")
    lay_out(bench)
    size = size_of(bench)
    bench.disk.calls.clear()
    bench.commit(b"two\n", b"three\n")
    assert bench.disk.calls == ["pwritev", "fdatasync"]
    assert size_of(bench) == size
    assert bench.read() == [b"one\n", b"two\n", b"three\n"]


def test_room_is_synced_in_silence_and_else_with_the_next_group(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.disk.calls.clear()
    bench.writer.lay_out(quiet=False)
    assert bench.disk.calls == ["pwritev"]
    bench.commit(b"x" * LAY_OUT_MIN)
    bench.disk.calls.clear()
    bench.writer.lay_out(quiet=True)
    assert bench.disk.calls == ["pwritev", "fdatasync"]


@pytest.mark.parametrize(
    ("burst", "least"), [(10, LAY_OUT_MIN), (2 * MIB, 2 * MIB), (40 * MIB, LAY_OUT_MAX)]
)
def test_there_is_room_for_another_burst_within_bounds(
    bench: Bench, burst: int, least: int
) -> None:
    bench.commit(*[b"x" * min(MIB, burst - at) for at in range(0, burst, MIB)])
    steps = lay_out(bench)
    assert least <= room_of(bench) <= least + LAY_OUT_STEP
    assert steps <= 1 + least // LAY_OUT_STEP


def test_between_groups_there_is_room_made_for_a_few_more_like_the_last_one(bench: Bench) -> None:
    appended = steps = 0
    for _ in range(1000):
        appended += sum(append.body.length for append in bench.commit(b"x" * 4000))
        bench.disk.calls.clear()
        bench.writer.lay_out(quiet=False)
        steps += len(bench.disk.calls)
    assert room_of(bench) <= 2 * LAY_OUT_MIN
    assert appended // (2 * LAY_OUT_MIN) <= steps <= 2 * appended // LAY_OUT_MIN


def test_lone_lines_ask_for_more_room_only_now_and_then(bench: Bench) -> None:
    bench.commit(b"x\n")
    lay_out(bench)
    steps = 0
    for _ in range(300):
        bench.commit(b"x" * 100)
        steps += lay_out(bench)
    assert 1 <= steps <= 3
    assert room_of(bench) <= 2 * LAY_OUT_MIN


def test_a_killed_node_finds_all_records_and_takes_the_room_for_nothing(bench: Bench) -> None:
    bench.commit(b"one\n", b"two\n")
    lay_out(bench)
    bench.commit(b"three\n")
    end = bench.writer.end
    recovery = reopened(bench)
    assert (recovery.end, recovery.records) == (end, 3)
    assert (recovery.cut_bytes, recovery.quarantined) == (0, 0)
    assert size_of(bench) == end.offset
    assert bench.read() == [b"one\n", b"two\n", b"three\n"]
    bench.commit(b"four\n")
    assert bench.read() == [b"one\n", b"two\n", b"three\n", b"four\n"]


@pytest.mark.parametrize("written", [1, 40, 200])
def test_a_record_torn_inside_the_room_is_cut_and_kept_aside_without_it(
    bench: Bench, written: int
) -> None:
    bench.commit(b"one\n")
    lay_out(bench)
    end = bench.writer.end
    bench.commit(b"x" * 500)
    file = bench.segment_files()[-1]
    whole = file.read_bytes()
    torn = whole[: end.offset + written]
    file.write_bytes(torn + bytes(len(whole) - len(torn)))
    recovery = reopened(bench)
    assert (recovery.end, recovery.cut_bytes) == (end, written)
    assert size_of(bench) == end.offset
    assert bench.read() == [b"one\n"]
    (kept,) = (bench.path / "quarantine").iterdir()
    assert kept.stat().st_size < written + 1000


def test_a_record_that_lost_its_newline_to_a_power_cut_is_there_at_every_start(
    bench: Bench,
) -> None:
    (record,) = bench.commit(b"one\n")
    (torn,) = bench.commit(b"two\n")
    bench.crash()
    (path,) = bench.segment_files()
    data = bytearray(path.read_bytes())
    data[record.end.offset - 1] = 0
    data[torn.start.offset + 9 : torn.end.offset] = bytes(torn.end.offset - torn.start.offset - 9)
    path.write_bytes(data)
    for _ in range(2):
        bench.writer.open()
        assert bench.read() == [b"one\n"]
        bench.crash()


def test_data_that_ends_with_zeros_is_not_taken_for_room(bench: Bench) -> None:
    data = b"x" + bytes(3 * LAY_OUT_MIN)
    bench.commit(data)
    assert reopened(bench).cut_bytes == 0
    assert bench.read() == [data]


def test_who_only_looks_at_the_folder_sees_no_damage(bench: Bench) -> None:
    bench.commit(b"one\n")
    lay_out(bench)
    folder = bench.disk.open_folder(bench.path)
    try:
        (segment,) = FolderView(bench.disk, folder).segments
    finally:
        bench.disk.close(folder)
    assert segment.end == bench.writer.end.offset


def test_a_segment_that_is_full_and_a_journal_that_is_closed_give_their_room_back(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal", segment_bytes=LAY_OUT_MIN)
    bench.writer.open()
    bench.commit(b"one\n")
    lay_out(bench)
    assert room_of(bench) > 0
    bench.commit(b"x" * LAY_OUT_MIN)
    end = bench.writer.end.offset
    assert not bench.writer.wants_room  # the next record begins another segment
    bench.commit(b"two\n")
    lay_out(bench)
    first, second = bench.segment_files()
    assert first.stat().st_size == end
    bench.writer.close()
    assert second.stat().st_size == bench.writer.end.offset


def test_room_that_cannot_be_made_costs_no_record_and_no_second_sync(bench: Bench) -> None:
    for name in ("pwritev", "fdatasync"):
        bench.commit(b"before\n")
        bench.disk.only = (name,)
        bench.disk.fail(1, times=1)
        bench.writer.lay_out(quiet=True)
        bench.disk.heal()
        bench.disk.calls.clear()
        (append,) = bench.commit(b"after\n")
        assert append.error is None
        assert bench.writer.refusal() is None
    assert bench.read() == [b"before\n", b"after\n"] * 2
    assert len(bench.segment_files()) == 3
    assert reopened(bench).cut_bytes == 0
    assert bench.read() == [b"before\n", b"after\n"] * 2


def test_a_disk_that_is_nearly_full_keeps_its_room_for_others(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.disk.free = LAY_OUT_MAX - 1
    bench.writer.lay_out(quiet=True)
    assert room_of(bench) == 0
    assert not bench.writer.wants_room  # nobody asks again and again


def test_no_room_is_made_before_what_is_buffered_is_durable(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.commit(b"two\n", durability="buffered")
    assert not bench.writer.wants_room
    bench.writer.lay_out(quiet=True)
    assert room_of(bench) < LAY_OUT_MIN
    bench.writer.sync()
    assert bench.writer.wants_room


def test_room_is_laid_out_in_silence_and_then_nothing_is_done(bench: Bench) -> None:
    delivered: queue.Queue[list[Append]] = queue.Queue()
    commit = GroupCommit(bench.writer, delivered.put, clock=SystemClock(), probe_interval_s=7)
    assert commit.patience_s() == 7
    commit.submit(bench.append(b"x" * MIB))
    commit.turn(0)
    assert room_of(bench) <= LAY_OUT_STEP  # the next group may come soon
    while bench.writer.wants_room:
        assert 0 < commit.patience_s() < 0.1
        commit.turn(0)
    assert room_of(bench) >= MIB
    assert commit.patience_s() == 7
    thread = threading.Thread(target=commit.run)
    commit.close()
    thread.start()
    thread.join(10)
    assert bench.read(max_bytes=10 * MIB) == [b"x" * MIB]
