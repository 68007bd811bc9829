"""A failing disk: nothing acknowledged is lost, nothing refused is stored."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from journal_kit import MIB, Bench, FaultyDisk

from proof_kit import Proof
from slimq.core.limits import STALL_MS
from slimq.errors import DiskFull, FolderUnusable, JournalFailed
from slimq.journal.append import Append


class Life:
    """A scripted life of a journal: small segments, groups, spooled and buffered bodies."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.acknowledged: list[bytes] = []
        self.refused: list[bytes] = []
        self.count = 0

    def run(self) -> None:
        for turn in range(4):
            self._commit("journal", 2)
            self._commit("journal", 1, spooled=True)
            self._commit("buffered", 2)
            if turn % 2:
                self.bench.writer.sync()

    def _commit(self, durability: str, count: int, *, spooled: bool = False) -> None:
        try:
            group = [self._append(durability, spooled) for _ in range(count)]
        except (JournalFailed, DiskFull):
            return  # a body that could not be spooled was never submitted
        self.bench.writer.commit([append for append, _ in group])
        errors = {append.error is None for append, _ in group}
        assert len(errors) == 1, "a group is all or nothing"
        for append, data in group:
            if append.error is None:
                self.acknowledged.append(data)
            else:
                assert isinstance(append.error, JournalFailed | DiskFull)
                self.refused.append(data)

    def _append(self, durability: str, spooled: bool) -> tuple[Append, bytes]:
        self.count += 1
        data = b"line %d\n" % self.count * 20
        return self.bench.append(data, durability, spooled=spooled), data


def _bench(path: Path) -> Bench:
    return Bench(path, segment_bytes=1200, reserve=8192)


def _calls_of_a_life(path: Path) -> int:
    bench = _bench(path)
    bench.writer.open()
    before = bench.disk.count
    Life(bench).run()
    bench.writer.close()
    return bench.disk.count - before


@pytest.mark.proof("T7")
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("times", [1, 2, 3, 1 << 30])
def test_after_a_fault_at_any_call_exactly_the_acknowledged_is_read(
    tmp_path: Path, proof: Proof, error: int, times: int
) -> None:
    calls = _calls_of_a_life(tmp_path / "dry")
    assert calls > 40
    refusals = 0
    for nth in range(1, calls + 1):
        bench = _bench(tmp_path / str(nth))
        bench.writer.open()
        bench.disk.fail(nth, error=error, times=times)
        life = Life(bench)
        life.run()
        bench.disk.heal()
        refused = bench.writer.refusal()
        refusals += refused is not None
        if refused is not None:
            assert isinstance(refused, DiskFull if error == errno.ENOSPC else JournalFailed)
        bench.writer.probe()
        assert bench.writer.refusal() is None, "it recovers without a restart"
        assert (bench.path / "reserve").exists()
        life.run()
        bench.writer.sync()
        assert bench.read() == life.acknowledged, nth
        bench.reopen()
        assert bench.read() == life.acknowledged, nth
        bench.writer.close()
    assert refusals == 0 if times == 1 else refusals > 0
    proof.report(faults=calls, lost=0)


def test_one_failed_call_alone_refuses_nothing(tmp_path: Path) -> None:
    for nth in range(1, _calls_of_a_life(tmp_path / "dry") + 1):
        bench = _bench(tmp_path / str(nth))
        bench.writer.open()
        bench.disk.fail(nth, times=1)
        bench.disk.only = ("pwritev", "fdatasync", "fsync", "fsync_folder", "create")
        life = Life(bench)
        life.run()
        assert not life.refused
        bench.writer.close()


def test_a_kill_while_the_disk_fails_loses_nothing_acknowledged(tmp_path: Path) -> None:
    for nth in range(1, _calls_of_a_life(tmp_path / "dry") + 1, 2):
        bench = _bench(tmp_path / str(nth))
        bench.writer.open()
        bench.disk.fail(nth)
        life = Life(bench)
        life.run()
        owed = [append.header.id for append in bench.writer._owed]
        bench.crash()
        bench.disk.heal()
        bench.writer.open()
        read = bench.read()
        # What was buffered when the disk died may be gone, but only as a suffix; what was
        # refused and could not be cut may be there: the caller was told 503, not "no".
        durable = life.acknowledged[: len(life.acknowledged) - len(owed)]
        assert read[: len(durable)] == durable, nth
        assert set(read) <= {*life.acknowledged, *life.refused}
        bench.writer.close()


def test_short_writes_and_copies_are_continued(bench: Bench) -> None:
    bench.disk.short = True
    data = [bytes(range(256)) * 9, b"", b"tiny\n"]
    appends = [bench.append(d, spooled=d == data[0]) for d in data]
    bench.writer.commit(appends)
    assert [append.error for append in appends] == [None] * 3
    assert bench.read() == data


def test_a_failed_fsync_is_never_tried_again_on_that_file(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.disk.calls.clear()
    bench.disk.only = ("fdatasync",)
    bench.disk.fail(1, times=1)
    (append,) = bench.commit(b"two\n")
    assert append.error is None
    assert append.start.segment == 2
    first_try, second_try = bench.disk.calls[:3], bench.disk.calls[3:]
    assert first_try == ["pwritev", "fdatasync", "truncate"]
    assert second_try == ["create", "pwritev", "fsync", "fsync_folder"]
    assert bench.read() == [b"one\n", b"two\n"]


def test_a_tail_that_was_refused_and_could_not_be_cut_is_never_read(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.disk.only = ("fdatasync", "fsync", "truncate", "unlink")
    bench.disk.fail(1)
    (refused,) = bench.commit(b"refused\n")
    assert isinstance(refused.error, JournalFailed)
    assert b"refused\n" in bench.segment_files()[0].read_bytes()
    assert len(bench.segment_files()) == 2
    bench.disk.heal()
    bench.writer.probe()
    assert len(bench.segment_files()) == 2, "the refused one is gone, a new one is there"
    bench.commit(b"two\n")
    assert bench.read() == [b"one\n", b"two\n"]
    bench.reopen()
    assert bench.read() == [b"one\n", b"two\n"]


def test_void_segments_that_could_not_be_removed_are_removed_at_start(bench: Bench) -> None:
    bench.commit(b"one\n")
    bench.disk.only = ("fdatasync", "fsync", "truncate", "unlink")
    bench.disk.fail(1)
    bench.commit(b"refused\n")
    void = bench.segment_files()[1]
    saved = void.read_bytes()
    bench.disk.heal()
    bench.writer.probe()
    bench.commit(b"two\n")
    void.write_bytes(saved)  # as if the removal was lost in a power cut
    bench.reopen()
    assert not void.exists()
    assert bench.read() == [b"one\n", b"two\n"]


def test_less_free_space_than_the_reserve_refuses_early_and_frees_the_reserve(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal", reserve=MIB)
    bench.writer.open()
    reserve = bench.path / "reserve"
    assert reserve.stat().st_blocks * 512 >= MIB
    bench.commit(b"one\n")
    bench.disk.free = MIB - 1
    (refused,) = bench.commit(b"two\n")
    assert isinstance(refused.error, DiskFull)
    assert refused.error.status == 507
    assert refused.error.headers["Retry-After"] == "1"
    assert not reserve.exists()
    bench.disk.free = 2 * MIB - 1
    bench.writer.probe()
    assert isinstance(bench.writer.refusal(), DiskFull)
    bench.disk.free = 2 * MIB
    bench.writer.probe()
    assert bench.writer.refusal() is None
    assert reserve.exists()
    (append,) = bench.commit(b"three\n")
    assert append.error is None
    assert bench.read() == [b"one\n", b"three\n"]
    bench.writer.close()


def test_a_full_store_on_the_same_disk_gets_the_reserve(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", reserve=MIB)
    bench.writer.open()
    bench.disk.free = MIB - 1
    bench.writer.make_room()
    assert not (bench.path / "reserve").exists()
    assert isinstance(bench.commit(b"x\n")[0].error, DiskFull)
    bench.disk.free = 2 * MIB
    bench.writer.probe()
    assert bench.commit(b"x\n")[0].error is None
    bench.writer.close()


def test_a_full_store_on_another_disk_does_not_stop_the_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", reserve=MIB)
    bench.writer.open()
    bench.writer.make_room()
    assert (bench.path / "reserve").exists()
    assert bench.commit(b"x\n")[0].error is None
    bench.writer.close()


def test_a_journal_on_a_full_disk_opens_and_refuses(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal", reserve=MIB)
    bench.disk.free = 1000
    bench.writer.open()
    assert isinstance(bench.writer.refusal(), DiskFull)
    bench.writer.close()


def test_a_disk_that_fails_at_start_is_an_unusable_folder_and_leaks_nothing(
    tmp_path: Path,
) -> None:
    dry = Bench(tmp_path / "journal", reserve=MIB)
    dry.writer.open()
    dry.commit(b"one\n", b"two\n")
    dry.writer.close()
    path = dry.segment_files()[0]
    path.write_bytes(path.read_bytes()[:-2])
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for nth in range(1, 30):
        bench = Bench(dry.path, reserve=MIB)
        bench.disk.fail(nth, times=1)
        try:
            bench.writer.open()
        except FolderUnusable:
            assert len(list(Path("/proc/self/fd").iterdir())) == open_files
            continue
        assert bench.read() == [b"one\n"]
        bench.writer.close()


class UnreadableDisk(FaultyDisk):
    """Fails the reads, too, that a start or an ingest makes."""

    def pread(self, file: int, size: int, offset: int) -> bytes:
        self._call("pread")
        return super().pread(file, size, offset)


def test_a_read_that_fails_is_said_and_loses_nothing_once_the_disk_can_be_read(
    tmp_path: Path,
) -> None:
    dry = _bench(tmp_path / "journal")
    dry.writer.open()
    life = Life(dry)
    life.run()
    dry.writer.close()
    said = 0
    for nth in range(1, 20):
        bench = _bench(dry.path)
        bench.disk = UnreadableDisk()
        bench.disk.only = ("pread",)
        bench.writer = bench.new_writer()
        bench.disk.fail(nth, times=1)
        try:
            bench.writer.open()
            bench.read()
        except (FolderUnusable, JournalFailed):
            said += 1
            bench.writer.close()
            bench.writer = bench.new_writer()
            bench.writer.open()
        bench.disk.heal()
        assert bench.read() == life.acknowledged, nth
        assert not list(bench.path.glob("quarantine/*")), "what cannot be read is not damage"
        bench.writer.close()
    assert said > 5


def test_each_refusal_is_a_new_error(bench: Bench) -> None:
    bench.disk.fail(1)
    first, second = bench.commit(b"a\n", b"b\n")
    assert first.error is not second.error
    assert bench.writer.refusal() is not bench.writer.refusal()


def test_while_the_disk_takes_seconds_appends_are_refused_and_what_is_written_is_not(
    bench: Bench,
) -> None:
    bench.commit(b"first\n")
    said: list[str] = []

    def take_time(name: str) -> None:
        for ms in (STALL_MS - 1, 1, 2000):
            bench.clock.now += ms
            refusal = bench.writer.refusal()
            said.append("" if refusal is None else f"{type(refusal).__name__} {refusal.detail}")

    for durability in ("journal", "buffered"):
        bench.disk.meanwhile = take_time
        (append,) = bench.commit(b"slow\n", durability=durability)
        bench.writer.sync()
        bench.disk.meanwhile = lambda name: None
        assert append.error is None
        assert bench.writer.refusal() is None
    assert bench.read() == [b"first\n", b"slow\n", b"slow\n"]
    assert bench.disk.calls[-4:] == ["pwritev", "fdatasync"] * 2
    soon, stands_still, longer = said[-3:]
    assert soon == ""
    assert stands_still.startswith("JournalFailed the disk has taken 5 s so far over one write")
    assert "has taken 7 s" in longer
    assert said[:3] == said[-3:]
