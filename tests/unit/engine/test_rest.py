"""What a node that has nothing to do asks of a PostgreSQL that it shares."""

from __future__ import annotations

import re
from contextlib import closing

from engine_kit import MakeRig, handler
from postgres_rig import PostgresRig

from clock_kit import FakeClock
from postgres_kit import Server
from slimq.engine import SCAN_S

SECONDS = 300
STATEMENT = re.compile(r"LOG:  duration: [\d.]+ ms  (?:execute \S+|statement): ")
LOGGED = "?options=-c%20log_min_duration_statement%3D0"


def test_a_node_at_rest_sends_no_more_than_seventeen_statements_in_ten_seconds(
    postgres: Server, make_rig: MakeRig
) -> None:
    clock = FakeClock()
    with closing(PostgresRig(postgres, clock)) as database:
        database.url += LOGGED
        with closing(database.store()) as store:
            rig = make_rig(store=store, clock=clock)
            store.put_handler(handler())
            (flight,) = rig.launch(b"data")
            rig.land(flight, 200)
            rig.step()
            assert rig.counts() == (0, 0, 1, 0, 0)
            at = postgres.log.stat().st_size
            for _ in range(SECONDS):
                clock.advance(int(SCAN_S * 1000))
                assert not rig.step()
            with postgres.log.open("rb") as log:
                log.seek(at)
                count = len(STATEMENT.findall(log.read().decode(errors="replace")))
    assert 1 <= count / SECONDS <= 1.7
