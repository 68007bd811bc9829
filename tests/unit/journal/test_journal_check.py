"""Looking at a journal from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_kit import Bench

from slimq.errors import FolderUnusable
from slimq.journal.check import check_folder, folder_view, list_segments
from slimq.journal.reader import JournalReader
from slimq.journal.record import Position
from slimq.system.disk import SystemDisk


def test_a_check_counts_records_jobs_and_damage_beside_a_running_node(bench: Bench) -> None:
    appends = bench.commit(b"a\nb\n", b"c\n", b"d\ne\nf\n")
    bench.reopen()
    bench.commit(b"g\n")
    path = bench.segment_files()[0]
    data = bytearray(path.read_bytes())
    data[appends[1].end.offset - 2] ^= 1
    path.write_bytes(data)
    first, second = check_folder(bench.path, SystemDisk())
    assert (first.number, first.records, first.jobs, first.damaged) == (1, 2, 5, 1)
    assert first.damaged_bytes == appends[1].end.offset - appends[1].start.offset
    assert first.first_id == appends[0].header.id
    assert first.last_id[:-1] == appends[2].header.id[:-1]
    assert (second.records, second.jobs, second.damaged) == (1, 1, 0)
    assert not list(bench.path.glob("quarantine/*"))


def test_a_record_that_is_being_written_is_no_damage(bench: Bench) -> None:
    bench.commit(b"a\n")
    path = bench.segment_files()[0]
    with path.open("ab") as file:
        file.write(b"slimq1 half a li")
    (info,) = check_folder(bench.path, SystemDisk())
    assert (info.records, info.damaged, info.tail_bytes) == (1, 0, 16)


def test_a_list_names_the_segments(bench: Bench) -> None:
    (append,) = bench.commit(b"a\n")
    (info,) = list_segments(bench.path, SystemDisk())
    assert (info.number, info.bytes, info.first_id) == (1, append.end.offset, append.header.id)
    assert info.name == bench.segment_files()[0].name


def test_a_folder_at_rest_can_be_read_by_the_same_reader(bench: Bench) -> None:
    bench.commit(b"a\n", b"b\n")
    with folder_view(bench.path, SystemDisk()) as view:
        entries, _ = JournalReader(view).read(Position(), 1 << 20)
        assert [entry.body.lines(0, 10, 100)[0] for entry in entries] == [[b"a"], [b"b"]]


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FolderUnusable):
        check_folder(tmp_path / "none", SystemDisk())
