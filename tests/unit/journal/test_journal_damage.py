"""Damage loses what is damaged and nothing else, wherever it is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from journal_kit import Bench

from proof_kit import Proof
from slimq.journal.record import record_prefix
from slimq.journal.recovery import Recovery
from slimq.journal.scan import Damage, Record, SegmentScan
from slimq.system.disk import SystemDisk

MIXED = [b"one\n", b"a\n\nb\n", b"", b"no newline at the end", bytes(range(256)), b"\n" * 9]


class BytesDisk(SystemDisk):
    """Reads from bytes: the file number does not matter."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def pread(self, file: int, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]


class Sample:
    """One segment with records, and where each of them lies."""

    def __init__(self, bench: Bench, bodies: list[bytes]) -> None:
        bench.commit(*bodies)
        (self.path,) = bench.segment_files()
        self.data = self.path.read_bytes()
        self.nonce = self.path.name.split(".")[1]
        self.bodies = bodies
        self.records = [i for i in self.scan(self.data) if isinstance(i, Record)]
        assert [r.data for r in self.records] == bodies

    def scan(self, data: bytes) -> list[Record | Damage]:
        return list(SegmentScan(BytesDisk(data), 0, self.nonce, len(data), 4096).items(0))


def plain(items: list[Record | Damage]) -> list[tuple[int, int, bytes | None]]:
    return [(i.start, i.next, i.data) for i in items if isinstance(i, Record)]


@pytest.mark.proof("T2c")
def test_cut_at_every_byte_all_whole_records_before_the_cut_are_returned(
    bench: Bench, proof: Proof
) -> None:
    bodies = MIXED * proof.size(submission=15, release=45) + [b"x" * 6000, b"z"]
    sample = Sample(bench, bodies)
    assert len(sample.data) > proof.size(submission=20_000, release=50_000)
    whole = plain(sample.records)
    ends = {r.next for r in sample.records} | {sample.records[0].start, 0}
    for cut in range(len(sample.data)):
        items = sample.scan(sample.data[:cut])
        expected = [record for record in whole if record[1] <= cut]
        assert plain(items) == expected, cut
        damage = [item for item in items if isinstance(item, Damage)]
        start = expected[-1][1] if expected else min(cut, sample.records[0].start)
        if cut < sample.records[0].start:
            start = 0
        assert damage == ([] if cut in ends else [Damage(start, cut)]), cut
    proof.report(cuts=len(sample.data), wrong=0)


@pytest.mark.proof("T2c")
def test_after_every_bit_flip_all_other_records_are_returned_and_the_damage_is_counted(
    bench: Bench, proof: Proof
) -> None:
    sample = Sample(bench, MIXED * proof.size(submission=1, release=50))
    whole = plain(sample.records)
    for at in range(len(sample.data)):
        for bit in range(8):
            flipped = bytearray(sample.data)
            flipped[at] ^= 1 << bit
            items = sample.scan(bytes(flipped))
            hit = [r for r in whole if r[0] <= at < r[1] - 1]
            assert plain(items) == [r for r in whole if r not in hit], (at, bit)
            damage = [item for item in items if isinstance(item, Damage)]
            assert len(damage) == 1, (at, bit)
            assert damage[0].start <= at < damage[0].end, (at, bit)
    proof.report(flips=8 * len(sample.data), wrong=0)


@pytest.mark.proof("T2c")
def test_zeroed_and_garbled_holes_lose_only_the_records_they_touch(
    bench: Bench, proof: Proof
) -> None:
    sample = Sample(bench, MIXED * 4)
    whole = plain(sample.records)
    starts = range(0, len(sample.data), proof.size(submission=61, release=1))
    holes = list(product(starts, (1, 40, 512), (b"\0", b"\n", b"s")))
    for start, size, filler in holes:
        hole = sample.data[:start] + filler * size + sample.data[start + size :]
        hole = hole[: len(sample.data)]
        items = sample.scan(hole)
        safe = [r for r in whole if hole[r[0] : r[1] - 1] == sample.data[r[0] : r[1] - 1]]
        assert plain(items) == safe, (start, size, filler)
    proof.report(holes=len(holes), wrong=0)


def test_a_record_forged_inside_a_body_is_not_returned_after_damage(bench: Bench) -> None:
    other = bench.commit(b"other\n")[0]
    (path,) = bench.segment_files()
    stolen = path.read_bytes()[other.start.offset :]
    guess = record_prefix("0" * 16) + b"150 3 00000000 {} 00000000\n"
    forged = b"x\n" + stolen + guess
    bench.commit(forged, b"after\n")
    damaged = bytearray(path.read_bytes())
    damaged[bench.entries()[1].start.offset + 3] ^= 1  # its header line: length is unknown
    path.write_bytes(damaged)
    assert bench.read() == [b"other\n", b"after\n"]


def _cut_places(sample: Sample) -> list[int]:
    return sorted({max(0, r.next + near) for r in sample.records for near in (-30, -1, 0, 1)})


def test_a_torn_tail_is_cut_and_kept_and_everything_before_it_is_returned(tmp_path: Path) -> None:
    source = Bench(tmp_path / "source")
    source.writer.open()
    sample = Sample(source, MIXED)
    source.writer.close()
    for cut in [c for c in _cut_places(sample) if c <= len(sample.data)]:
        bench = Bench(tmp_path / str(cut))
        bench.path.mkdir(mode=0o700)
        (bench.path / sample.path.name).write_bytes(sample.data[:cut])
        recovery = bench.writer.open()
        kept = [r for r in sample.records if r.next <= cut]
        assert bench.read() == [r.data for r in kept]
        tail = cut - (kept[-1].next if kept else sample.records[0].start)
        assert (recovery.cut_bytes, recovery.quarantined) == (tail, 0)
        cuts = list(bench.path.glob("quarantine/*.cut"))
        assert [len(c.read_bytes()) for c in cuts] == ([tail] if tail else [])
        bench.commit(b"new\n")
        assert bench.read() == [*(r.data for r in kept), b"new\n"]
        assert len(bench.segment_files()) == 2  # an old segment is never appended to
        bench.writer.close()


def test_a_segment_without_anything_intact_is_dropped_and_the_one_before_is_read(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal")
    bench.writer.open()
    bench.commit(b"kept\n")
    bench.writer.close()
    (bench.path / "00000002.00000000000000ff.journal").write_bytes(b"slimq1-segm")
    bench.writer = bench.new_writer()
    recovery = bench.writer.open()
    assert recovery.cut_bytes == 11
    assert bench.read() == [b"kept\n"]
    bench.commit(b"new\n")
    assert bench.read() == [b"kept\n", b"new\n"]
    bench.writer.close()


def _damage_middle(bench: Bench) -> bytes:
    """Garble the middle one of three records; return its bytes."""
    appends = bench.commit(b"first\n", b"rotten\n", b"last\n")
    path = bench.segment_files()[-1]
    data = bytearray(path.read_bytes())
    data[appends[1].end.offset - 3] ^= 4
    path.write_bytes(data)
    return bytes(data[appends[1].start.offset : appends[1].end.offset])


def test_a_rotten_record_of_the_last_segment_is_quarantined_at_start(bench: Bench) -> None:
    rotten = _damage_middle(bench)
    recovery = bench.reopen()
    assert isinstance(recovery, Recovery)
    assert (recovery.quarantined, recovery.cut_bytes, recovery.records) == (1, 0, 2)
    assert recovery.intact == 0
    (side,) = bench.path.glob("quarantine/*")
    assert side.read_bytes() == rotten
    assert bench.read() == [b"first\n", b"last\n"]


def test_a_rotten_record_of_an_old_segment_is_quarantined_once_when_it_is_read(
    bench: Bench,
) -> None:
    rotten = _damage_middle(bench)
    bench.reopen()
    bench.commit(b"newer\n")
    for _ in range(2):
        recovery = bench.reopen()
        assert recovery.intact == 2
        for _ in range(2):
            assert bench.read() == [b"first\n", b"last\n", b"newer\n"]
        quarantine = bench.writer.quarantine
        assert quarantine is not None
        assert (quarantine.pieces, quarantine.bytes) == (1, len(rotten))
        (side,) = bench.path.glob("quarantine/*")
        assert side.read_bytes() == rotten
        side_changed = side.stat().st_mtime_ns
        bench.clock.now += 1
    assert side.stat().st_mtime_ns == side_changed


def test_a_segment_shorter_than_what_was_acknowledged_is_reported(bench: Bench) -> None:
    appends = bench.commit(b"kept\n", b"lost\n")
    bench.reopen()
    bench.commit(b"newer\n")
    path = bench.segment_files()[0]
    path.write_bytes(path.read_bytes()[: appends[1].start.offset])
    bench.reopen()
    assert bench.read() == [b"kept\n", b"newer\n"]
    assert bench.writer.quarantine is not None
    assert bench.writer.quarantine.pieces == 1


def test_damage_is_not_passed_over_when_it_cannot_be_put_aside(bench: Bench) -> None:
    _damage_middle(bench)
    bench.disk.fail(1, times=1)
    with pytest.raises(Exception, match="fails"):
        bench.read()
    assert bench.read() == [b"first\n", b"last\n"]
    assert len(list(bench.path.glob("quarantine/*"))) == 1


def test_damage_larger_than_a_block_is_stepped_over(bench: Bench) -> None:
    big = b"y" * (3 << 20) + b"\n"
    appends = bench.commit(b"first\n", big, b"last\n")
    (path,) = bench.segment_files()
    data = bytearray(path.read_bytes())
    data[appends[1].start.offset + 2] ^= 1
    path.write_bytes(data)
    assert bench.read() == [b"first\n", b"last\n"]
    data[appends[1].start.offset + 2] ^= 1
    data[appends[1].start.offset + 2_000_000] ^= 1
    path.write_bytes(data)
    assert bench.read() == [b"first\n", b"last\n"]


def test_the_record_behind_damage_is_found_wherever_it_lies_in_a_block(bench: Bench) -> None:
    for size in range(16_100, 16_420):
        first, _ = bench.commit(b"z" * size, b"found\n")
        path = bench.segment_files()[-1]
        data = bytearray(path.read_bytes())
        data[first.start.offset + 2] ^= 1
        nonce = path.name.split(".")[1]
        scan = SegmentScan(BytesDisk(bytes(data)), 0, nonce, len(data), 4096)
        found = [item for item in scan.items(first.start.offset) if isinstance(item, Record)]
        assert [record.data for record in found] == [b"found\n"], size
