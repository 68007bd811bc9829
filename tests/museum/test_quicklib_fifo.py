"""Quicklib's fifo (lib/Quick/Fifo): the reader renames the live file and sleeps for 12 ms, hoping
that all writers are done with it, then unlinks it: lines of a writer that paused are lost. The
result of a write is ignored, nothing is synced, and files are compacted in place.

slimq: one process writes a journal. Readers never rename what is written to, and a segment goes
when its jobs are in the store, not when its end was seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest
from journal_kit import Bench

from slimq.errors import SlimqError
from slimq.journal.reader import JournalReader
from slimq.journal.record import Position

WRITER = """
import sys
from pathlib import Path
from journal_kit import Bench
bench = Bench(Path(sys.argv[1]))
bench.writer.open()
for line in sys.stdin.buffer:
    (append,) = bench.commit(line)
    print("failed" if append.error else "written", flush=True)
bench.writer.close()
"""


def test_a_writer_that_is_paused_in_the_middle_loses_nothing_and_nobody_else_writes(
    tmp_path: Path,
) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "journal")],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"before\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGSTOP)
        second = Bench(tmp_path / "journal")
        with pytest.raises(SlimqError):
            second.writer.open()
        writer.stdin.write(b"after\n")
        writer.stdin.flush()
        writer.send_signal(signal.SIGCONT)
        assert writer.stdout.readline() == b"written\n"
        writer.stdin.close()
        assert writer.wait(30) == 0
    second.writer.open()
    assert second.read() == [b"before\n", b"after\n"]
    second.writer.close()


def test_a_reader_beside_a_writer_that_starts_new_segments_gets_every_line_once(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "journal", segment_bytes=1_000)
    bench.writer.open()
    bodies = [b"line %d\n" % number for number in range(300)]
    read: list[bytes] = []
    over = Event()

    def follow() -> None:
        reader = JournalReader(bench.writer)
        position = Position()
        while True:
            was_over = over.is_set()
            entries, position = reader.read(position, 1 << 16)
            for entry in entries:
                lines, _, _ = entry.body.lines(0, 10, 1000)
                read.extend(line + b"\n" for line in lines)
            if was_over and not entries:
                return

    thread = Thread(target=follow)
    thread.start()
    for body in bodies:
        assert bench.commit(body)[0].error is None
    over.set()
    thread.join(30)
    assert len(bench.segment_files()) > 20
    assert read == bodies
    bench.writer.close()
