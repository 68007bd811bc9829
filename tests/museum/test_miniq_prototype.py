r"""node-miniq, the first sketch of what became slimq: `\r` and U+2028 in a payload were lost and
`#` lines dropped; a `|` or newline in a jobtype forged a line of the journal; retries that had
timed out were logged and never given back, so that their locks ended and they ran for ever; jobs
that no handler ran were deleted after 30 days without a word; and a lock was a node's name without
the attempt.

slimq: a line is bytes between newlines, names are checked at every entry, RETRY ends at `max_age`
with 410, only done jobs are purged, and a lease is (id, node, attempt).
"""

from __future__ import annotations

import pytest
from engine_kit import DAY_MS, Rig, handler
from store_kit import NODE, Yard, lease_of

from slimq.api.options import AddOptionsReader
from slimq.core.jobtype import is_name
from slimq.core.lifecycle import FREE
from slimq.core.limits import LEASE_MS
from slimq.core.lines import parse_child
from slimq.errors import CallerError

LINES = [
    b"a\rb",
    "a\u2028b\u2029c\u0085d".encode(),
    b"# not a comment",
    b"",
    b"a|b",
    b"\x00",
    b"\xff",
]


def test_every_line_is_data_whatever_it_holds(rig: Rig) -> None:
    ids = rig.add(*LINES)
    rig.ingest_all()
    assert [rig.job(id_).data for id_ in ids] == LINES


@pytest.mark.parametrize("name", ["a|b", "a%0Ab", "a\n", "a\r", "%00", "", "../a", "__done", "a b"])
def test_a_name_that_could_forge_a_line_is_refused_at_every_entry(name: str) -> None:
    for query in (f"jobtype={name}", f"jobtype=a&client={name}"):
        with pytest.raises(CallerError):
            AddOptionsReader().read(query.encode())
    child = parse_child(f"#J: {name}|data".encode())
    assert child is None or is_name(child.jobtype)


def test_a_job_that_asks_to_run_later_for_ever_is_done_at_its_age(rig: Rig) -> None:
    rig.memory.put_handler(handler(max_age="1h", backoff={"min": "1m", "max": "10m"}))
    (id_,) = rig.add(b"x")
    for _ in range(100):
        rig.step()
        for flight in list(rig.air):
            rig.land(flight, 102)
        rig.step()
        rig.clock.advance(60_000)
    assert rig.job(id_).status == 410
    assert rig.counts() == (0, 0, 0, 1, 0)


def test_a_job_that_nobody_ran_for_a_year_is_there_and_runs(rig: Rig) -> None:
    (id_,) = rig.add(b"x")
    for _ in range(365):
        rig.step()
        rig.clock.advance(DAY_MS)
    assert rig.job(id_).lock == FREE
    rig.memory.put_handler(handler())
    rig.clock.advance(1000)
    rig.step()
    (flight,) = rig.air
    rig.land(flight, 200)
    rig.step()
    assert rig.job(id_).status == 200


def test_what_a_node_lost_and_got_again_is_not_given_back_by_its_former_run(yard: Yard) -> None:
    yard.add()
    (lost,) = yard.claim()
    yard.clock.advance(LEASE_MS)
    yard.store.free(10)
    (held,) = yard.claim()
    assert yard.store.release(NODE, [lease_of(lost)]) == 0
    assert yard.finish([lost], 400) == {lost.id}
    assert yard.store.leases(NODE) == {lease_of(held)}
