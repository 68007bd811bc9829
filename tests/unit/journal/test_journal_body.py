"""A body is counted, checksummed and bounded while it arrives."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from zlib import crc32

import pytest
from journal_kit import MIB, Bench, FaultyDisk

from slimq.errors import BodyTooLarge, DiskFull, JournalFailed, LineTooLong
from slimq.journal.body import Body, BodyBudget
from slimq.system.disk import SystemDisk


def budget(path: Path, **bounds: int) -> BodyBudget:
    return BodyBudget(path, disk=SystemDisk(), **{"body_max": 10_000, **bounds})


def collected(budget: BodyBudget, chunks: list[bytes]) -> Body:
    body = Body(budget)
    for chunk in chunks:
        body.feed(chunk)
    body.finish()
    return body


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3), (b"\n\n", 2), (b"#x\r\n", 1)],
)
def test_every_newline_and_a_last_unfinished_line_count(
    tmp_path: Path, data: bytes, count: int
) -> None:
    by_byte = collected(budget(tmp_path), [data[i : i + 1] for i in range(len(data))])
    assert by_byte.count == collected(budget(tmp_path), [data]).count == count
    assert Body.of(data).count == count


@pytest.mark.parametrize("size", [1, 3, 7, 10, 1000])
def test_a_line_over_the_limit_is_refused_with_its_number(tmp_path: Path, size: int) -> None:
    data = b"12345678\n\n" * 5 + b"123456789\n" + b"1\n" * 5
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(LineTooLong) as caught:
        collected(budget(tmp_path, line_max=8), chunks)
    assert caught.value.extra == {"line": 11}


def test_a_last_line_over_the_limit_is_refused_before_it_ends(tmp_path: Path) -> None:
    body = Body(budget(tmp_path, line_max=8))
    body.feed(b"a\n12345678")
    with pytest.raises(LineTooLong):
        body.feed(b"9")


def test_lines_of_exactly_the_limit_are_taken(tmp_path: Path) -> None:
    assert collected(budget(tmp_path, line_max=8), [b"12345678\n" * 50]).count == 50


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    body = Body(budget(tmp_path, body_max=10))
    body.feed(b"1234567890")
    with pytest.raises(BodyTooLarge):
        body.feed(b"1")


def test_memory_is_given_back_when_a_request_is_aborted(tmp_path: Path) -> None:
    shared = budget(tmp_path)
    body = collected(shared, [b"abc", b"def"])
    assert shared.in_memory == 6
    body.discard()
    body.discard()
    assert shared.in_memory == 0


def test_bodies_beyond_the_shared_memory_are_spooled_and_leave_no_file(tmp_path: Path) -> None:
    shared = budget(tmp_path, bodies_in_memory_max=10)
    kept, spooled = collected(shared, [b"12345678"]), collected(shared, [b"abc", b"d\n"])
    assert kept.spool is None
    assert spooled.spool is not None
    assert shared.in_memory == 8
    assert list(tmp_path.iterdir()) == []
    spooled.discard()
    kept.discard()
    assert shared.in_memory == 0


@pytest.mark.parametrize("bound", [0, 5, 1000])
def test_digest_and_checksum_are_of_the_content_wherever_it_is(tmp_path: Path, bound: int) -> None:
    body = collected(budget(tmp_path, body_in_memory_max=bound), [b"abc\n", b"", b"defg"])
    assert body.digest() == hashlib.blake2b(b"abc\ndefg", digest_size=16).hexdigest()
    assert (body.crc, body.length) == (crc32(b"abc\ndefg"), 8)
    body.discard()


def test_tiny_chunks_cost_no_more_memory_than_their_bytes(tmp_path: Path) -> None:
    shared = budget(tmp_path, body_max=MIB)
    tracemalloc.start()
    body = collected(shared, [bytes((n % 251, 10)) for n in range(100_000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert body.count >= 100_000
    # The list of chunks above is 8 bytes and an object of 35 each; the body is 200 kB.
    assert sum(map(len, body.pieces)) == 200_000
    assert len(body.pieces) < 10
    assert peak < 8 * MIB
    body.discard()


@pytest.mark.parametrize(("error", "expected"), [(5, JournalFailed), (28, DiskFull)])
def test_a_body_that_cannot_be_spooled_is_refused(
    tmp_path: Path, error: int, expected: type
) -> None:
    disk = FaultyDisk()
    body = Body(BodyBudget(tmp_path, disk=disk, body_max=100, body_in_memory_max=4))
    disk.fail(1, error=error)
    with pytest.raises(expected):
        body.feed(b"12345")
    body.discard()


def test_a_64_mib_body_goes_through_in_bounded_memory(bench: Bench) -> None:
    block = os.urandom(48 * 1024).replace(b"\n", b" ") + b"\n"
    tracemalloc.start()
    body = Body(bench.budget)
    while body.length < 64 * MIB:
        body.feed(block)
    body.finish()
    append = bench.append(b"")
    append.header.count, append.body = body.count, body
    bench.writer.commit([append])
    (entry,) = bench.entries()
    offset, count, at_end = 0, 0, False
    while not at_end:
        lines, offset, at_end = entry.body.lines(offset, 1000, MIB)
        count += len(lines)
        assert all(line == block[:-1] for line in lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert append.error is None
    assert count == append.header.count == 64 * MIB // len(block) + 1
    assert peak < 24 * MIB
