"""saurabhnanda/odd-jobs#115: `UPDATE ... WHERE id IN (SELECT ... LIMIT n FOR UPDATE SKIP LOCKED)`
claimed more than n. Where the planner nests loops, the inner query is run again for each row.

slimq: no plan makes a claim take more than its limit; here the planner may only nest loops.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from postgres_kit import Server
from slimq.core.jobid import Minter
from slimq.store.base import Cursor, NewJobs
from slimq.store.postgres import PostgresStore
from slimq.system.clock import SystemClock

CLAIMERS = 16
JOBS = 2_000
LIMIT = 7
TYPE = "acme/mail"


@pytest.mark.parametrize("known", [False, True], ids=["unknown tables", "analyzed tables"])
def test_many_claimers_at_a_time_get_each_job_once_and_never_more_than_they_asked_for(
    postgres: Server, database: str, known: bool
) -> None:
    name = database.rpartition("/")[2]
    for join in ("enable_hashjoin", "enable_mergejoin", "enable_material"):
        postgres.execute(f"ALTER DATABASE {name} SET {join} = off")
    clock = SystemClock()
    with closing(PostgresStore(database, clock=clock)) as store:
        ids = Minter("nodeAAAA").block(JOBS, clock.wall_ms()).ids(0, JOBS)
        jobs = NewJobs(type=TYPE, dt=store.now(), ids=ids, data=[b"x"] * JOBS)
        store.ingest("a journal", Cursor(), Cursor(1), [jobs])
    if known:
        postgres.execute("ANALYZE", database=name)

    def claim_all(number: int) -> list[list[str]]:
        found = []
        with closing(PostgresStore(database, clock=clock)) as store:
            while claimed := store.claim(
                TYPE, f"claimer{number}", LIMIT, lease_ms=60_000, bytes_max=1 << 20
            ).jobs:
                found.append([job.id for job in claimed])
        return found

    with ThreadPoolExecutor(CLAIMERS) as pool:
        claims = [claim for found in pool.map(claim_all, range(CLAIMERS)) for claim in found]
    assert max(map(len, claims)) == LIMIT
    taken = Counter(id_ for claim in claims for id_ in claim)
    assert taken.keys() <= set(ids)
    assert set(taken.values()) == {1}
    with closing(PostgresStore(database, clock=clock)) as store:
        counts = store.totals()
        assert (counts.waiting, counts.running) == (JOBS - len(taken), len(taken))
    assert len(taken) > JOBS - LIMIT * CLAIMERS  # one that finds only locked jobs gives up
