"""The reader: entries in order, lines in slices, and where a job is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from journal_kit import MIB, Bench, ManualClock, content

from slimq.core.jobid import block_from, child_id
from slimq.errors import JournalFailed
from slimq.journal.append import Append
from slimq.journal.body import Body
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, JobLine, Position

EVERY_BYTE = bytes(range(256))


class AskingClock(ManualClock):
    """A clock that is looked at while a segment is made visible, and then asks a question."""

    def __init__(self) -> None:
        super().__init__()
        self.ask: Callable[[], object] | None = None
        self.answers: list[object] = []

    def wall_ms(self) -> int:
        if self.ask is not None:
            self.answers.append(self.ask())
        return super().wall_ms()


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\n\n", b"a", b"a\n", EVERY_BYTE, EVERY_BYTE * 9 + b"\n", b"\r\n", b"# |\n"],
)
@pytest.mark.parametrize("spooled", [False, True])
def test_content_comes_back_byte_for_byte(bench: Bench, data: bytes, spooled: bool) -> None:
    append = bench.append(data, spooled=spooled)
    bench.writer.commit([append])
    assert bench.read() == [data]
    (entry,) = bench.entries()
    assert entry.header == append.header
    assert (entry.start, entry.next) == (append.start, append.end)


def test_reading_goes_on_from_the_position_returned(bench: Bench) -> None:
    bodies = [b"%d\n" % n * 10 for n in range(40)]
    for body in bodies[:20]:
        bench.commit(body)
    bench.reopen()
    for body in bodies[20:]:
        bench.commit(body)
    for max_bytes in (1, 100, 1000, 5000, MIB):
        assert bench.read(max_bytes=max_bytes) == bodies
    reader = JournalReader(bench.writer)
    entries, position = reader.read(Position(), 1)
    assert len(entries) == 1
    assert position == entries[0].next
    assert reader.read(bench.writer.end, MIB) == ([], bench.writer.end)


def test_an_empty_journal_has_no_entries(bench: Bench) -> None:
    assert JournalReader(bench.writer).read(Position(), MIB) == ([], Position())


def test_lines_come_in_slices_of_at_most_so_many(bench: Bench) -> None:
    lines = [b"x" * (n % 50) for n in range(1000)]
    bench.commit(b"\n".join(lines) + b"\n")
    (entry,) = bench.entries()
    for max_lines, max_bytes in ((1, 10), (7, 10_000), (1000, 100), (5000, MIB)):
        got: list[bytes] = []
        offset, at_end = 0, False
        while not at_end:
            slice_, offset, at_end = entry.body.lines(offset, max_lines, max_bytes)
            assert 1 <= len(slice_) <= max_lines
            got += slice_
        assert got == lines
        assert offset == entry.body.length


def test_a_line_longer_than_a_slice_is_returned_whole(bench: Bench) -> None:
    bench.commit(b"short\n" + b"x" * 3_000_000 + b"\nend")
    (entry,) = bench.entries()
    first, offset, _ = entry.body.lines(0, 10, 100)
    second, offset, at_end = entry.body.lines(offset, 1, 100)
    third, offset, at_end = entry.body.lines(offset, 10, 100)
    assert (first, len(second[0]), third, at_end) == ([b"short"], 3_000_000, [b"end"], True)


def test_a_body_that_rotted_is_not_returned_in_part(bench: Bench) -> None:
    (append,) = bench.commit(b"y" * (3 << 20) + b"\n")
    bench.commit(b"after\n")
    (path,) = bench.segment_files()
    data = bytearray(path.read_bytes())
    data[append.end.offset - 100] ^= 1
    path.write_bytes(data)
    assert bench.read() == [b"after\n"]


def test_a_disk_that_cannot_be_read_stops_the_reader_and_loses_nothing(bench: Bench) -> None:
    bench.commit(b"one\n")
    path = bench.segment_files()[0]
    path.rename(path.with_suffix(".away"))
    with pytest.raises(JournalFailed):
        bench.read()
    path.with_suffix(".away").rename(path)
    assert bench.read() == [b"one\n"]


def test_every_job_of_a_record_is_found_until_it_is_ingested(bench: Bench) -> None:
    reader = JournalReader(bench.writer)
    appends = bench.commit(*(b"a\nb\nc\n" for _ in range(2000)))
    ids = block_from(appends[700].header.id, 3)
    for id_ in ids.ids():
        assert reader.find(id_, Position()) == appends[700].header
        assert reader.find(id_, appends[700].start) == appends[700].header
        assert reader.find(id_, appends[700].end) is None
    assert reader.find(ids.id_at(5000), bench.writer.end) is None
    assert reader.find("not an id", Position()) is None


@pytest.mark.parametrize("start", ["oldest", "cursor"])
def test_jobs_are_found_after_a_restart(bench: Bench, start: str) -> None:
    before = bench.commit(*(b"%d\n" % n for n in range(1000)))
    bench.reopen()
    after = bench.commit(*(b"%d\n" % n for n in range(1000)))
    reader = JournalReader(bench.writer)
    cursor = Position() if start == "oldest" else before[500].start
    headers = list(reader.headers(cursor))
    expected = [a.header for a in (*before, *after)][0 if start == "oldest" else 500 :]
    assert headers == expected
    for append in (before[600], before[999], after[0], after[999]):
        assert reader.find(append.header.id, cursor) == append.header
    # Also from a place before the one that was indexed first.
    assert reader.find(before[3].header.id, Position()) == before[3].header


def test_a_buffered_job_is_found_before_it_is_durable(bench: Bench) -> None:
    (append,) = bench.commit(b"a\nb\n", durability="buffered")
    second = block_from(append.header.id, 2).id_at(1)
    assert JournalReader(bench.writer).find(second, bench.writer.end) == append.header


def test_a_buffered_job_is_found_at_every_moment_of_becoming_durable(bench: Bench) -> None:
    bench.clock = clock = AskingClock()
    bench.reopen()
    (append,) = bench.commit(b"a\n", durability="buffered")
    reader = JournalReader(bench.writer)
    clock.ask = lambda: reader.find(append.header.id, Position())
    bench.writer.sync()
    assert clock.answers == [append.header]


def test_a_child_is_found_by_the_id_in_its_line(bench: Bench) -> None:
    parent = bench.commit(b"parent\n")[0].header.id
    lines = [JobLine(type="main/a", data=str(n), id=child_id(parent, n)) for n in range(5)]
    body = Body.of(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    ids = bench.minter.block(body.count, bench.clock.now)
    header = Header(id=ids.first, count=body.count, at=bench.clock.now, kind="jobs")
    bench.writer.commit([Append(header, body)])
    bench.commit(b"later\n")
    reader = JournalReader(bench.writer)
    assert reader.find(child_id(parent, 3), Position()) == header
    assert reader.find(child_id(parent, 9), Position()) is None
    assert reader.find(child_id(parent, 3), bench.writer.end) is None


def test_swept_segments_leave_the_index(bench: Bench) -> None:
    (append,) = bench.commit(b"one\n")
    bench.reopen()
    bench.commit(b"two\n")
    reader = JournalReader(bench.writer)
    assert reader.find(append.header.id, Position()) == append.header
    assert bench.writer.sweep(append.end, 0) == 1
    assert reader.find(append.header.id, Position()) is None
    assert content(bench.entries()[0].body) == b"two\n"


def test_the_index_stays_small(bench: Bench) -> None:
    for _ in range(20):
        bench.commit(*(b"x" * 100 + b"\n" for _ in range(1000)))
    covered = bench.writer.index._segments[1]
    assert len(covered.buckets) < bench.writer.end.offset / 60_000
