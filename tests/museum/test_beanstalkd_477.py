"""beanstalkd/beanstalkd#477: an error of fsync was logged, and jobs were acknowledged as if they
were on disk. #536: after one failed write it went on from memory. #570, #43: the log never got
smaller; one old job kept all of it.

slimq: what is not proved to be on disk is refused, and proved elsewhere, or not at all. A segment
goes when the store has its jobs, whatever these wait for.
"""

from __future__ import annotations

import pytest
from engine_kit import DAY_MS, MakeRig, handler
from journal_kit import Bench

from slimq.errors import JournalFailed


def test_while_fsync_fails_nothing_is_acknowledged_and_that_file_is_not_synced_again(
    bench: Bench,
) -> None:
    assert bench.commit(b"before\n")[0].error is None
    bench.disk.only = ("fdatasync", "fsync")
    bench.disk.fail(1)
    (refused,) = bench.commit(b"on a disk that lies\n")
    assert isinstance(refused.error, JournalFailed)
    assert isinstance(bench.writer.refusal(), JournalFailed)
    bench.disk.heal()
    bench.writer.probe()
    assert bench.commit(b"after\n")[0].error is None
    assert bench.read() == [b"before\n", b"after\n"]
    assert len(bench.segment_files()) > 1, "the file whose sync failed is used no more"


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_after_one_failed_write_the_next_acknowledgement_is_of_bytes_on_disk(
    bench: Bench, call: str
) -> None:
    bench.commit(b"before\n")
    bench.disk.only = (call,)
    bench.disk.fail(1, times=1)
    (append,) = bench.commit(b"written anew\n")
    assert append.error is None
    bench.crash()
    bench.writer.open()
    assert bench.read() == [b"before\n", b"written anew\n"]


def test_one_job_that_waits_for_a_month_keeps_no_segment_of_the_journal(make_rig: MakeRig) -> None:
    rig = make_rig(segment_bytes=2_000, retain_ms=60_000)
    rig.memory.put_handler(handler(batch_size=1000))
    (waiting,) = rig.add(b"in a month", dt=rig.clock.wall_ms() + 30 * DAY_MS)
    for _ in range(30):
        rig.add(*(b"%d" % n for n in range(100)))
        rig.clock.advance(10_000)
        while rig.step() or rig.air:
            for flight in list(rig.air):
                rig.land(flight, 200)
        assert len(rig.segment_files()) < 12
    assert rig.counts() == (1, 0, 3_000, 0, 0)
    assert rig.job(waiting).data == b"in a month"
