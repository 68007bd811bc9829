"""procrastinate-org/procrastinate#1518: jobs stayed "doing" for ever when the row of their worker
was pruned, or when a worker came back under the same id. #1408: the job that rescues the
others got stuck itself. Users were to write the rescue themselves.

slimq: leases need no row of a node, and freeing them is no job. After a lease any node frees
what nobody renews; a node that starts again takes back at once what its last process left.
"""

from __future__ import annotations

from pathlib import Path

from node_kit import Node, wait_until
from sqlite_kit import raw
from store_kit import OTHER, TYPE, Yard

from slimq.core.limits import LEASE_MS


def test_jobs_of_a_node_that_is_registered_nowhere_are_freed_after_their_lease(yard: Yard) -> None:
    ids = yard.add(count=3)
    yard.claim(lock=OTHER)
    assert yard.store.nodes() == []
    assert yard.store.free(10) == (0, 0, {})
    yard.clock.advance(LEASE_MS)
    assert yard.store.free(10).again == 3
    assert [job.id for job in yard.claim(TYPE)] == ids


def test_a_node_whose_registration_is_lost_takes_its_jobs_back_when_it_starts(
    tmp_path: Path,
) -> None:
    marker = tmp_path / "marker"
    script = f"if [ -e {marker} ]; then sed 's/^/200 /'; else touch {marker}; sleep 60; fi"
    with Node(tmp_path) as node:
        node.put("hang", lang="exec", body=["sh", "-c", script])
        (id_,) = node.add("hang", [b"x"])
        wait_until(marker.exists, "the job runs")
        node.kill()
        with raw(node.store) as db:
            db.execute("DELETE FROM node")
        node.start()
        job = node.done(id_)
        assert (job["status"], job["attempt"], job["crashes"]) == (200, 2, 1)
