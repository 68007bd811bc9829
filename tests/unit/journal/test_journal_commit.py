"""Group commit: order, one delivery a group, no polling when idle."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_kit import Bench

from slimq.errors import JournalFailed, ShuttingDown
from slimq.journal.append import Append
from slimq.journal.commit import GroupCommit
from slimq.journal.record import Position
from slimq.system.clock import SystemClock


class Running:
    """A GroupCommit with its thread; `delivered` gets each group."""

    def __init__(self, bench: Bench, probe_interval_s: float = 0.01) -> None:
        self.bench = bench
        self.delivered: queue.Queue[list[Append]] = queue.Queue()
        self.synced: queue.Queue[Position] = queue.Queue()  # what was durable then
        self.commit = GroupCommit(
            bench.writer,
            self.delivered.put,
            clock=SystemClock(),
            synced=lambda: self.synced.put(bench.writer.end),
            probe_interval_s=probe_interval_s,
            buffered_fsync_s=0.02,
        )
        self.thread = threading.Thread(target=self.commit.run)

    def stop(self) -> None:
        self.commit.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_what_waits_is_committed_in_order_by_one_sync_and_delivered_once(bench: Bench) -> None:
    bodies = [b"%d\n" % n for n in range(100)]
    bench.commit(b"first\n")
    bench.disk.free = 0  # no room is laid out
    running = Running(bench)
    appends = [bench.append(body) for body in bodies]
    for append in appends:
        running.commit.submit(append)
    bench.disk.calls.clear()
    running.thread.start()
    assert running.delivered.get(timeout=10) == appends
    running.stop()
    assert bench.disk.calls == ["pwritev", "fdatasync"]
    assert running.delivered.empty()
    assert bench.read() == [b"first\n", *bodies]


def test_what_is_delivered_has_been_written_and_synced_before(bench: Bench) -> None:
    bench.commit(b"first\n")
    bench.disk.calls.clear()
    before: list[list[str]] = []
    commit = GroupCommit(
        bench.writer, lambda group: before.append(list(bench.disk.calls)), clock=SystemClock()
    )
    commit.submit(bench.append(b"second\n"))
    commit.close()
    commit.run()
    assert before == [["pwritev", "fdatasync"]]


def test_close_finishes_what_is_queued_and_refuses_what_comes_after(bench: Bench) -> None:
    running = Running(bench)
    for n in range(2500):  # more than two groups
        running.commit.submit(bench.append(b"%d\n" % n))
    running.commit.close()
    running.commit.run()
    groups = [running.delivered.get_nowait() for _ in range(3)]
    assert [len(group) for group in groups] == [1024, 1024, 452]
    assert bench.read() == [b"%d\n" % n for n in range(2500)]
    with pytest.raises(ShuttingDown):
        running.commit.submit(bench.append(b"late\n"))


def _until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not come to that in 10 s")


def test_buffered_appends_are_delivered_at_once_and_synced_soon_after(bench: Bench) -> None:
    running = Running(bench)
    running.thread.start()
    append = bench.append(b"soon\n", "buffered")
    running.commit.submit(append)
    assert running.delivered.get(timeout=10) == [append]
    assert running.synced.get(timeout=10) == append.end
    assert bench.read() == [b"soon\n"]
    running.stop()


def test_a_journal_that_failed_is_probed_until_it_works_again(bench: Bench) -> None:
    running = Running(bench)
    bench.disk.fail(1, error=errno.EIO)
    running.thread.start()
    running.commit.submit(bench.append(b"refused\n"))
    (refused,) = running.delivered.get(timeout=10)
    assert isinstance(refused.error, JournalFailed)
    bench.disk.heal()
    _until(lambda: bench.writer.refusal() is None)
    running.commit.submit(bench.append(b"taken\n"))
    (taken,) = running.delivered.get(timeout=10)
    assert taken.error is None
    running.stop()
    assert bench.read() == [b"taken\n"]


class TickingClock(SystemClock):
    def __init__(self) -> None:
        self.asked = 0

    def boot_ms(self) -> int:
        self.asked += 1
        return super().boot_ms()


def test_an_idle_commit_thread_does_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal")
    bench.writer.open()
    clock = TickingClock()
    delivered: queue.Queue[list[Append]] = queue.Queue()
    commit = GroupCommit(bench.writer, delivered.put, clock=clock, buffered_fsync_s=0.001)
    thread = threading.Thread(target=commit.run)
    thread.start()
    commit.submit(bench.append(b"one\n"))
    delivered.get(timeout=10)
    threading.Event().wait(0.1)
    commit.close()
    thread.join(10)
    assert clock.asked == 0
    bench.writer.close()
