"""Small fakes and makers for the tests of the journal."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from slimq.core.jobid import Minter
from slimq.journal.append import Append
from slimq.journal.body import Body, BodyBudget
from slimq.journal.reader import JournalReader
from slimq.journal.record import Header, Position
from slimq.journal.writer import JournalWriter
from slimq.system.disk import Buffer, SystemDisk

MIB = 1 << 20
OLDEST = Position()


class ManualClock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def wall_ms(self) -> int:
        return self.now

    def boot_ms(self) -> int:
        return self.now


class CountingChance:
    """Tokens that differ, and repeat from run to run."""

    def __init__(self, seed: int = 1) -> None:
        self.count = seed << 32

    def uniform(self) -> float:
        return 0.5

    def token(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


WRITES = ("pwritev", "copy", "fdatasync", "fsync", "fsync_folder", "create", "unlink")
WRITES += ("truncate", "allocate", "rename", "make_folder")


class FaultyDisk(SystemDisk):
    """A real disk that records its calls, fails from the `first` changing call on for
    `times` calls, and may write only a part of what it is given. `meanwhile` happens while
    a call is made."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.count = 0
        self.first = 0  # 0: never
        self.times = 1
        self.error = errno.EIO
        self.only: tuple[str, ...] = WRITES
        self.short = False
        self.free: int | None = None
        self.meanwhile: Callable[[str], None] = lambda name: None

    def fail(self, first: int, *, error: int = errno.EIO, times: int = 1 << 30) -> None:
        self.first, self.error, self.times = self.count + first, error, times

    def heal(self) -> None:
        self.first = 0

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.meanwhile(name)
        if name not in self.only:
            return
        self.count += 1
        if self.first and self.first <= self.count < self.first + self.times:
            raise OSError(self.error, f"planted in {name}")

    def pwritev(self, file: int, buffers: Sequence[Buffer], offset: int) -> int:
        self._call("pwritev")
        if self.short:
            first = memoryview(next(b for b in buffers if len(b)))
            return super().pwritev(file, [first[: max(1, len(first) // 2)]], offset)
        return super().pwritev(file, buffers, offset)

    def copy(self, source: int, target: int, size: int, offset: int, target_offset: int) -> int:
        self._call("copy")
        size = max(1, size // 2) if self.short else size
        return super().copy(source, target, size, offset, target_offset)

    def fdatasync(self, file: int) -> None:
        self._call("fdatasync")
        super().fdatasync(file)

    def fsync(self, file: int) -> None:
        self._call("fsync")
        super().fsync(file)

    def fsync_folder(self, folder: int) -> None:
        self._call("fsync_folder")
        super().fsync_folder(folder)

    def create(self, folder: int, name: str) -> int:
        self._call("create")
        return super().create(folder, name)

    def unlink(self, folder: int, name: str) -> None:
        self._call("unlink")
        super().unlink(folder, name)

    def rename(self, folder: int, name: str, new_name: str) -> None:
        self._call("rename")
        super().rename(folder, name, new_name)

    def make_folder(self, path: Path) -> None:
        self._call("make_folder")
        super().make_folder(path)

    def truncate(self, file: int, size: int) -> None:
        self._call("truncate")
        super().truncate(file, size)

    def allocate(self, file: int, size: int) -> None:
        self._call("allocate")
        super().allocate(file, size)

    def free_bytes(self, folder: int) -> int:
        return super().free_bytes(folder) if self.free is None else self.free


class Bench:
    """A journal in a folder, with everything it needs."""

    def __init__(self, path: Path, *, segment_bytes: int = 64 * MIB, reserve: int = 0) -> None:
        self.path = path
        self.disk = FaultyDisk()
        self.clock = ManualClock()
        self.chance = CountingChance()
        self.minter = Minter("NODENODE")
        self.segment_bytes = segment_bytes
        self.reserve = reserve
        self.budget = BodyBudget(path, disk=self.disk, body_max=256 * MIB)
        self.writer = self.new_writer()

    def new_writer(self) -> JournalWriter:
        return JournalWriter(
            self.path,
            disk=self.disk,
            clock=self.clock,
            chance=self.chance,
            segment_bytes=self.segment_bytes,
            reserve_bytes=self.reserve,
        )

    def reopen(self) -> object:
        """Close, and open a new writer: what a restart does."""
        self.writer.close()
        self.writer = self.new_writer()
        return self.writer.open()

    def crash(self) -> None:
        """Let go of the folder as a killed process does: nothing is synced."""
        held = self.writer._held
        assert held is not None
        held.release()
        self.writer = self.new_writer()

    def append(
        self,
        data: bytes,
        durability: str = "journal",
        *,
        spooled: bool = False,
        done: Callable[[Append], None] | None = None,
    ) -> Append:
        body = Body.of(data)
        if spooled:
            budget = BodyBudget(self.path, disk=self.disk, body_max=MIB, body_in_memory_max=0)
            body = Body(budget)
            body.feed(data)
            body.finish()
        ids = self.minter.block(body.count, self.clock.now)
        header = Header(id=ids.first, count=body.count, at=self.clock.now, type="main/mail")
        return Append(header, body, durability, done)

    def commit(self, *bodies: bytes, durability: str = "journal") -> list[Append]:
        appends = [self.append(data, durability) for data in bodies]
        self.writer.commit(appends)
        return appends

    def read(self, start: Position = OLDEST, max_bytes: int = MIB) -> list[bytes]:
        """Return the bodies of all entries from `start` on."""
        return [content(entry.body) for entry in self.entries(start, max_bytes)]

    def entries(self, start: Position = OLDEST, max_bytes: int = MIB) -> list:
        reader = JournalReader(self.writer)
        found: list = []
        while True:
            entries, position = reader.read(start, max_bytes)
            found += entries
            if position == start:
                return found
            start = position

    def segment_files(self) -> list[Path]:
        return sorted(self.path.glob("*.journal"))


def content(body) -> bytes:
    """Return a whole body, joined again from its lines."""
    data, offset, at_end = b"", 0, False
    while not at_end:
        lines, offset, at_end = body.lines(offset, 100, 1000)
        data += b"".join(line + b"\n" for line in lines)
    return data[: body.length]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    bench.writer.open()
    yield bench
    bench.disk.heal()
    bench.writer.close()
