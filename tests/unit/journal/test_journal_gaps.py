"""What a power cut may leave: a buffered record, and before it a gap. What is lost of those that
nobody synced are the last ones, and whatever was synced stays."""

from __future__ import annotations

from journal_kit import Bench

from slimq.journal.append import Append


def lose(bench: Bench, append: Append) -> None:
    """Let a record be zeros, as where a block of a file was never written."""
    start, end = append.start, append.end
    file = bench.segment_files()[start.segment - 1]
    data = bytearray(file.read_bytes())
    data[start.offset : end.offset] = bytes(end.offset - start.offset)
    file.write_bytes(data)


def restart(bench: Bench) -> list[bytes]:
    """Return what is there."""
    bench.writer.open()
    return bench.read()


def buffered(bench: Bench, *bodies: bytes) -> list[Append]:
    """Let each be a group of its own."""
    return [bench.commit(body, durability="buffered")[0] for body in bodies]


def test_buffered_records_behind_a_gap_of_a_power_cut_do_not_count(bench: Bench) -> None:
    bench.commit(b"safe\n")
    _, second, *_ = buffered(bench, b"1\n", b"2\n", b"3\n", b"4\n")
    bench.crash()
    lose(bench, second)
    assert restart(bench) == [b"safe\n", b"1\n"]
    assert bench.reopen()
    assert bench.read() == [b"safe\n", b"1\n"]


def test_what_was_appended_after_such_a_start_is_found_by_the_next_one(bench: Bench) -> None:
    first, _ = buffered(bench, b"1\n", b"2\n")
    bench.crash()
    lose(bench, first)
    assert restart(bench) == []
    bench.commit(b"new\n")
    bench.reopen()
    assert bench.read() == [b"new\n"]


def test_a_gap_that_was_durable_once_takes_nothing_with_it(bench: Bench) -> None:
    first, _ = buffered(bench, b"1\n", b"2\n")
    bench.writer.sync()
    buffered(bench, b"3\n")
    bench.crash()
    lose(bench, first)
    assert restart(bench) == [b"2\n", b"3\n"]


def test_a_sync_of_others_shows_as_well_that_a_gap_was_durable(bench: Bench) -> None:
    first, _ = buffered(bench, b"1\n", b"2\n")
    bench.commit(b"synced\n")
    bench.commit(b"later\n")
    bench.crash()
    lose(bench, first)
    assert restart(bench) == [b"2\n", b"synced\n", b"later\n"]


def test_what_may_have_been_synced_stays_behind_any_gap(bench: Bench) -> None:
    first, _ = buffered(bench, b"1\n", b"2\n")
    bench.commit(b"synced\n")
    bench.crash()
    lose(bench, first)
    assert restart(bench) == [b"synced\n"]


def test_a_group_with_one_that_must_be_synced_stays_as_a_whole(bench: Bench) -> None:
    levels = {b"a\n": "buffered", b"b\n": "journal", b"c\n": "buffered"}
    group = [bench.append(body, level) for body, level in levels.items()]
    bench.writer.commit(group)
    bench.crash()
    lose(bench, group[0])
    assert restart(bench) == [b"b\n", b"c\n"]


def test_what_does_not_count_is_kept_aside(bench: Bench) -> None:
    bench.commit(b"safe\n")
    first, _ = buffered(bench, b"1\n", b"two\n")
    bench.crash()
    lose(bench, first)
    restart(bench)
    (kept,) = (bench.path / "quarantine").iterdir()
    assert b"two\n" in kept.read_bytes()
