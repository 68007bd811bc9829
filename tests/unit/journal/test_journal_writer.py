"""The writer: the order of its calls, its folder, its segments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from journal_kit import Bench

from slimq.errors import FolderHeld, FolderUnusable
from slimq.journal.body import Body
from slimq.journal.record import Position
from slimq.system.disk import SystemDisk


def test_a_new_segment_and_its_folder_are_synced_before_the_acknowledgement(bench: Bench) -> None:
    bench.disk.calls.clear()
    bench.commit(b"one\n")
    assert bench.disk.calls == ["create", "pwritev", "fsync", "fsync_folder"]
    bench.disk.calls.clear()
    bench.commit(b"two\n", b"three\n")
    assert bench.disk.calls == ["pwritev", "fdatasync"]


def test_records_of_a_group_stand_in_the_order_of_the_group(bench: Bench) -> None:
    bodies = [b"%d\n" % n for n in range(50)]
    appends = bench.commit(*bodies)
    assert [a.start for a in appends[1:]] == [a.end for a in appends[:-1]]
    assert bench.writer.end == appends[-1].end
    assert bench.read() == bodies


def test_buffered_records_are_not_read_before_they_are_durable(bench: Bench) -> None:
    bench.disk.calls.clear()
    (append,) = bench.commit(b"soon\n", durability="buffered")
    assert append.error is None
    assert not any("sync" in call for call in bench.disk.calls)
    assert bench.read() == []
    assert [header.id for header in bench.writer.unsynced] == [append.header.id]
    bench.writer.sync()
    assert bench.disk.calls[-2:] == ["fsync", "fsync_folder"]
    assert bench.writer.unsynced == []
    assert bench.read() == [b"soon\n"]


def test_a_kill_does_not_lose_what_was_buffered(bench: Bench) -> None:
    bench.commit(b"one\n", durability="buffered")
    bench.crash()
    bench.writer.open()
    assert bench.read() == [b"one\n"]


def test_close_makes_buffered_records_durable(bench: Bench) -> None:
    bench.commit(b"one\n", durability="buffered")
    bench.disk.calls.clear()
    bench.writer.close()
    assert bench.disk.calls == ["fsync", "fsync_folder"]


def test_a_second_opener_is_refused_and_told_the_process(bench: Bench) -> None:
    with pytest.raises(FolderHeld, match=f"process {os.getpid()}$"):
        bench.new_writer().open()


def test_a_killed_process_that_has_not_quite_ended_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with ThreadPoolExecutor(1) as thread, lock.open("r+b") as file:
            locked = thread.submit(SystemDisk().lock, file.fileno())
            holder.kill()
            assert locked.result()


def test_a_second_process_is_refused(bench: Bench) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from slimq.journal.writer import JournalWriter\n"
        "from slimq.system.disk import SystemDisk\n"
        "from slimq.system.clock import SystemClock\n"
        "from slimq.system.chance import SystemChance\n"
        "JournalWriter(Path(sys.argv[1]), disk=SystemDisk(), clock=SystemClock(),"
        " chance=SystemChance()).open()\n"
    )
    source = str(Path(__file__).parents[3] / "src")
    done = subprocess.run(
        [sys.executable, "-c", program, str(bench.path)],
        env={"PYTHONPATH": source, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"FolderHeld: {bench.path} is held by another slimq, process {os.getpid()}" in (
        done.stderr
    )


def test_only_the_owner_can_use_the_files(bench: Bench) -> None:
    bench.commit(b"secret\n")
    assert bench.path.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in bench.path.iterdir() if p.is_file()} == {0o600}


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    bench = Bench(tmp_path / "journal")
    bench.path.mkdir()
    bench.path.chmod(mode)
    with pytest.raises(FolderUnusable, match="chmod go-w"):
        bench.writer.open()


def test_a_file_in_the_place_of_the_folder_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"")
    with pytest.raises(FolderUnusable):
        Bench(tmp_path / "journal").writer.open()


def test_a_segment_that_is_a_link_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x")
    bench.writer.close()
    (bench.path / "00000009.00000000000000aa.journal").symlink_to(elsewhere)
    bench.writer = bench.new_writer()
    with pytest.raises(FolderUnusable):
        bench.writer.open()


def test_the_name_of_a_journal_stays_also_when_its_file_is_lost(bench: Bench) -> None:
    name = bench.writer.name
    assert re.fullmatch("[0-9a-f]{16}", name)
    bench.reopen()
    assert bench.writer.name == name
    bench.commit(b"one\n")
    (bench.path / "name").write_bytes(b"")
    bench.reopen()
    assert bench.writer.name == name
    assert (bench.path / "name").read_text() == f"{name}\n"


def test_left_over_spool_files_are_removed_at_start(bench: Bench) -> None:
    (bench.path / "0011.spool").write_bytes(b"half a request")
    bench.reopen()
    assert not (bench.path / "0011.spool").exists()


def test_a_restart_starts_a_new_segment_and_only_when_something_comes(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.reopen()
    assert len(bench.segment_files()) == 1
    bench.commit(b"two\n")
    assert len(bench.segment_files()) == 2
    assert bench.read() == [b"one\n", b"two\n"]


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", segment_bytes=500)
    bench.writer.open()
    bodies = [b"%03d\n" % n * 10 for n in range(30)]
    for body in bodies:
        bench.commit(body)
    assert len(bench.segment_files()) > 5
    assert bench.read() == bodies
    bench.reopen()
    assert bench.read() == bodies
    bench.writer.close()


def _three_segments(bench: Bench) -> list[Position]:
    ends = []
    for n in range(3):
        ends.append(bench.commit(b"%d\n" % n)[0].end)
        bench.reopen()
    return ends


def test_segments_are_swept_when_they_have_been_behind_for_long_enough(bench: Bench) -> None:
    ends = _three_segments(bench)
    bench.clock.now += 3_600_000  # that they are old says nothing
    assert bench.writer.sweep(Position(0, 0), 0) == 0
    assert bench.writer.sweep(Position(1, ends[0].offset - 1), 0) == 0
    assert bench.writer.sweep(ends[0], 1000) == 0
    bench.clock.now += 999
    assert bench.writer.sweep(ends[0], 1000) == 0
    bench.clock.now += 1
    assert bench.writer.sweep(ends[0], 1000) == 1
    assert [p.name[:8] for p in bench.segment_files()] == ["00000002", "00000003"]
    assert bench.read() == [b"1\n", b"2\n"]


def test_a_segment_that_is_not_behind_any_more_is_kept_as_if_it_never_was(bench: Bench) -> None:
    ends = _three_segments(bench)
    assert bench.writer.sweep(ends[1], 1000) == 0
    bench.clock.now += 999
    assert bench.writer.sweep(Position(0, 0), 1000) == 0
    bench.clock.now += 1
    assert bench.writer.sweep(ends[1], 1000) == 0
    bench.clock.now += 1000
    assert bench.writer.sweep(ends[1], 1000) == 2


def test_the_newest_segment_is_never_swept_so_that_numbers_go_on(bench: Bench) -> None:
    ends = _three_segments(bench)
    assert bench.writer.sweep(Position(99, 0), 0) == 2
    assert len(bench.segment_files()) == 1
    bench.reopen()
    (append,) = bench.commit(b"new\n")
    assert append.start > ends[-1]
    assert append.start.segment == 4


def test_a_segment_that_cannot_be_deleted_is_deleted_later(bench: Bench) -> None:
    ends = _three_segments(bench)
    bench.disk.fail(1, times=1)
    assert bench.writer.sweep(ends[-1], 0) == 0
    assert bench.writer.sweep(ends[-1], 0) == 2


def test_a_commit_gives_the_memory_of_its_bodies_back(bench: Bench) -> None:
    body = Body(bench.budget)
    body.feed(b"line\n")
    body.finish()
    append = bench.append(b"")
    append.body = body
    append.durability = "buffered"
    bench.writer.commit([append])
    assert bench.budget.in_memory == 5  # may have to be written again
    bench.writer.sync()
    assert bench.budget.in_memory == 0


def test_a_refused_commit_gives_the_memory_back_too(bench: Bench) -> None:
    body = Body(bench.budget)
    body.feed(b"line\n")
    body.finish()
    append = bench.append(b"")
    append.body = body
    bench.disk.fail(1)
    bench.writer.commit([append])
    assert append.error is not None
    assert bench.budget.in_memory == 0


def test_a_segment_can_be_read_with_a_pager(bench: Bench) -> None:
    bench.commit(b"first\nsecond\n")
    text = bench.segment_files()[0].read_text("ascii").split("\n")
    assert text[0].startswith("slimq1-segment 00")
    assert '"type":"main/mail"' in text[1]
    assert text[2:] == ["first", "second", "", ""]


def test_every_folder_that_is_made_is_for_its_owner_only(tmp_path):
    SystemDisk().make_folder(tmp_path / "data" / "journal")
    folders = (tmp_path / "data", tmp_path / "data" / "journal")
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700, 0o700]


def test_a_journal_that_is_retired_is_gone_and_the_next_one_here_has_another_name(
    bench: Bench,
) -> None:
    """Under the old name, its cursor would be ahead of all that is written from then on."""
    bench.commit(b"one\n")
    name = bench.writer.name
    bench.writer.retire()
    assert bench.segment_files() == []
    bench.reopen()
    assert bench.writer.name != name
    bench.commit(b"two\n")
    assert bench.read() == [b"two\n"]


def test_a_journal_whose_retirement_broke_off_is_still_the_same(bench: Bench) -> None:
    bench.commit(b"one\n")
    name = bench.writer.name
    (bench.writer.path / "name").unlink()
    bench.reopen()
    assert bench.writer.name == name
    assert bench.read() == [b"one\n"]
