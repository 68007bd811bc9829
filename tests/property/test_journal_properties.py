"""What holds of the journal for any input and any order of events."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from slimq.core.lines import split_lines
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.reader import JournalReader
from slimq.journal.record import (
    Header,
    Position,
    SegmentHead,
    encode_head,
    encode_line,
    parse_head,
    parse_line,
    record_prefix,
)
from slimq.journal.writer import JournalWriter
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from slimq.system.disk import Buffer, SystemDisk

NONCE = "0123456789abcdef"
PREFIX = record_prefix(NONCE)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)
numbers = st.integers(0, 1 << 52)
headers = st.builds(
    Header,
    id=texts,
    count=numbers,
    at=numbers,
    dt=numbers,
    type=texts,
    kind=st.sampled_from(["lines", "jobs"]),
    key=texts,
    digest=texts,
    trace=texts,
)
chunked = st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"a\n\nb"]), max_size=20)


@given(headers, numbers, numbers, st.integers(0, (1 << 32) - 1))
def test_a_header_line_says_what_was_encoded(
    header: Header, offset: int, length: int, crc: int
) -> None:
    line = encode_line(PREFIX, offset, length, crc, header)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    frame = parse_line(line[:-1], PREFIX, offset)
    assert frame is not None
    assert (frame.header, frame.length, frame.crc) == (header, length, b"%08x" % crc)
    assert parse_line(line[:-1], PREFIX, offset + 1) is None
    assert parse_line(line[:-1], record_prefix("f" * 16), offset) is None


@given(headers, st.data())
def test_a_changed_header_line_says_nothing(header: Header, data: st.DataObject) -> None:
    line = bytearray(encode_line(PREFIX, 7, 5, 3, header)[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    assert parse_line(bytes(line), PREFIX, 7) is None


@given(st.binary(max_size=200))
def test_garbage_is_never_a_header_line(garbage: bytes) -> None:
    assert parse_line(garbage, PREFIX, 0) is None
    assert parse_line(PREFIX + garbage, PREFIX, 0) is None
    assert parse_head(garbage, NONCE) is None


@given(numbers, numbers, numbers)
def test_the_head_of_a_segment_says_what_was_encoded(number: int, at: int, end: int) -> None:
    head = SegmentHead(journal="j", number=number, at=at, previous=number, previous_end=end)
    line = encode_head(NONCE, head)
    assert parse_head(line[:-1], NONCE) == head
    assert parse_head(line[:-1], "f" * 16) is None


@given(chunked, st.sampled_from([0, 30, 10_000]))
def test_a_body_is_the_same_however_it_arrives(chunks: list[bytes], in_memory: int) -> None:
    whole = b"".join(chunks)
    with tempfile.TemporaryDirectory() as folder:
        body = Body(
            BodyBudget(
                Path(folder), disk=SystemDisk(), body_max=10_000, body_in_memory_max=in_memory
            )
        )
        for chunk in chunks:
            body.feed(chunk)
        body.finish()
        assert body.count == len(split_lines(whole)) == Body.of(whole).count
        assert (body.length, body.crc) == (len(whole), crc32(whole))
        assert body.digest() == Body.of(whole).digest()
        body.discard()


class FlakyDisk(SystemDisk):
    """Fails every write and sync while `error` is set."""

    error = 0

    def _check(self) -> None:
        if self.error:
            raise OSError(self.error, "planted")

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        done = super().pwritev(file, buffers, offset)
        self._check()
        return done

    def fdatasync(self, file: int) -> None:
        self._check()

    def fsync(self, file: int) -> None:
        self._check()

    def fsync_folder(self, folder: int) -> None:
        self._check()

    def truncate(self, file: int, size: int) -> None:
        self._check()
        super().truncate(file, size)


class Model:
    """A journal beside the list of what it acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = FlakyDisk()
        self.writer = self.new_writer()
        self.acknowledged: list[bytes] = []
        self.count = 0

    def new_writer(self) -> JournalWriter:
        writer = JournalWriter(
            self.folder,
            disk=self.disk,
            clock=SystemClock(),
            chance=SystemChance(),
            segment_bytes=600,
            reserve_bytes=4096,
        )
        writer.open()
        return writer

    def commit(self, durability: str) -> None:
        self.count += 1
        data = b"%d\n" % self.count * (self.count % 7)
        header = Header(id="0" * 7 + "-NODENODE-0000", count=self.count % 7, at=1)
        append = Append(header, Body.of(data), durability)
        self.writer.commit([append])
        if append.error is None:
            self.acknowledged.append(data)

    def apply(self, step: str) -> None:
        if step in ("journal", "buffered"):
            self.commit(step)
        elif step == "sync":
            self.writer.sync()
        elif step in ("eio", "enospc"):
            self.disk.error = errno.EIO if step == "eio" else errno.ENOSPC
        elif step == "heal":
            self.disk.error = 0
            self.writer.probe()
        else:
            self.apply("heal")
            self.writer.close()
            self.writer = self.new_writer()

    def read(self) -> list[bytes]:
        reader, position, bodies = JournalReader(self.writer), Position(), []
        while True:
            entries, behind = reader.read(position, 100)
            for entry in entries:
                lines, _, at_end = entry.body.lines(0, 100, 1 << 20)
                assert at_end
                bodies.append(b"".join(line + b"\n" for line in lines))
            if behind == position:
                return bodies
            position = behind


steps = st.lists(
    st.sampled_from(["journal", "journal", "buffered", "sync", "eio", "enospc", "heal", "restart"]),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_in_any_order_of_events_exactly_the_acknowledged_is_read(order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model(Path(folder) / "journal")
        for step in order:
            model.apply(step)
            readable = model.read()
            assert readable == model.acknowledged[: len(readable)]
            assert len(model.acknowledged) - len(readable) == len(model.writer.unsynced)
        model.apply("restart")
        assert model.read() == model.acknowledged
        model.writer.close()
