"""ohdearquant/khive#580: a WAL grew to 15.5 GB beside a database of 3.7 GB.
benbjohnson/litestream#218: "database is locked". IntersectMBO/ouroboros-consensus#2233:
SQLITE_BUSY_SNAPSHOT, which no busy timeout heals, when a reading transaction goes on to write.

slimq: whoever will write says so at the beginning of its transaction, writers take turns, and no
question lasts: nobody gets an error, and the WAL stays small.
"""

from __future__ import annotations

import threading

import pytest
from sqlite_kit import Opener

from proof_kit import Proof
from slimq.core.limits import MIB
from slimq.store.base import JobFilter, Node, Policy
from slimq.store.sqlite import SqliteStore

WRITERS = 8


@pytest.mark.proof("P26")
def test_eight_writers_and_a_reader_get_no_error_and_the_wal_stays_small(
    opener: Opener, proof: Proof
) -> None:
    turns = proof.size(submission=15, release=3_000)
    stores = [opener.open(busy_ms=30_000) for _ in range(WRITERS)]
    opener.add(stores[0], "a/b", count=1)
    failed: list[BaseException] = []

    def write(number: int, store: SqliteStore) -> None:
        try:
            for turn in range(turns):
                store.beat(Node(f"{number}-{turn}", 0, 0, {}))
                store.put_policy(Policy(client="a", jobtype=f"j{number}", weight=turn))
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(number, store)) for number, store in enumerate(stores)
    ]
    reader = opener.open()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reader.jobs(JobFilter(), before="", limit=10)
        reader.nodes()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(reader.nodes()) == WRITERS * turns
    wal = opener.path.with_name("store.db-wal").stat().st_size
    assert wal < 32 * MIB
    proof.report(writes=2 * WRITERS * turns, errors=0, wal_bytes=wal)
