"""rabbitmq/rabbitmq-server#8869: in spite of its alarm it filled 500 GB, and crashed. #2225:
producers were blocked without a word.

slimq: with less room than its reserve a node refuses at once with 507 and says so, goes on with
what it has, and accepts again as soon as there is room.
"""

from __future__ import annotations

from pathlib import Path

from journal_kit import MIB, Bench

from slimq.errors import DiskFull


def test_with_less_room_than_the_reserve_jobs_are_refused_before_the_disk_is_full(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal", reserve=MIB)
    bench.writer.open()
    assert bench.commit(b"accepted\n")[0].error is None
    bench.disk.free = MIB - 1
    (refused,) = bench.commit(b"refused\n")
    assert isinstance(refused.error, DiskFull)
    assert refused.error.status == 507
    assert "disk is full" in str(refused.error)
    written = sum(path.stat().st_size for path in bench.segment_files())
    for _ in range(100):
        assert isinstance(bench.commit(b"refused, too\n")[0].error, DiskFull)
    assert sum(path.stat().st_size for path in bench.segment_files()) == written
    bench.disk.free = 3 * MIB
    bench.writer.probe()
    assert bench.commit(b"accepted again\n")[0].error is None
    assert bench.read() == [b"accepted\n", b"accepted again\n"]
    bench.writer.close()
