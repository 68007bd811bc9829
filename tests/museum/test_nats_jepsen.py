"""jepsen.io/analyses/nats-2.12.1: JetStream acknowledged before it synced, every two minutes, and
lost it all at a power cut; one flipped bit or a cut file lost most of a stream.

slimq: acknowledged is synced. Damage loses the records that it touches, and is kept and counted.
"""

from __future__ import annotations

from random import Random

from journal_kit import Bench

from slimq.journal.commit import GroupCommit

RECORDS = 200


def test_nothing_is_acknowledged_between_a_write_and_its_sync(bench: Bench) -> None:
    seen: list[list[str]] = []
    for number in range(3):
        bench.disk.calls.clear()
        commit = GroupCommit(
            bench.writer, lambda group: seen.append([*bench.disk.calls]), clock=bench.clock
        )
        commit.submit(bench.append(b"%d\n" % number))
        commit.close()
        commit.run()
    assert len(seen) == 3
    for calls in seen:
        writes = [at for at, call in enumerate(calls) if call == "pwritev"]
        assert {"fdatasync", "fsync"} & {*calls[writes[-1] :]}


def test_of_a_flipped_bit_and_of_a_cut_only_the_records_that_they_hit_are_lost(
    bench: Bench,
) -> None:
    bodies = [b"record %d\n" % n for n in range(RECORDS)]
    bench.commit(*bodies)
    bench.writer.close()
    (path,) = bench.segment_files()
    whole = path.read_bytes()
    chance = Random(1)
    for _ in range(20):
        at = chance.randrange(whole.index(b"record 0"), len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        assert lost(bench, bodies) <= 1
        assert any((bench.path / "quarantine").iterdir())
    cut = whole.index(b"record 150\n")
    path.write_bytes(whole[:cut])
    assert lost(bench, bodies) == RECORDS - 150


def lost(bench: Bench, bodies: list[bytes]) -> int:
    """Open the journal as a node that starts; return how many records are not there."""
    bench.writer = bench.new_writer()
    bench.writer.open()
    read = bench.read()
    assert read == [body for body in bodies if body in set(read)]
    bench.writer.close()
    return len(bodies) - len(read)
