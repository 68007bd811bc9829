"""What must hold, whatever happens. First in words:

Accepting
 1. What is acknowledged is in the journal of its node, behind the cursor that the store has,
    or in the store, or was there and is purged. At every time, also after a crash, a power
    cut, a failed sync, and after a store fell back within `journal.retain`.
 2. Nothing is acknowledged before its record is durable, and at the level `store` before the
    store has it. A power cut takes of the level `buffered` only what was not synced.
 3. A request is stored whole or not at all; one that was refused is not stored.
 4. Nothing is in the store that nobody added.

Ingest
 5. The cursor of a journal moves on from where the store has it, and never back, unless the
    store itself fell back.
 6. A line comes in exactly once: what ingest says that it added is what was not there.
 7. Requests with one Idempotency-Key and one body make one request's jobs, on all nodes.

Running
 8. A job is claimed only while nobody holds it: by the store's clock there is at most one
    valid lease.
 9. A job is never claimed before it is due.
10. The attempt counts up by one with every claim, so that (lock, attempt) is never used twice.
11. Only who holds (id, lock, attempt) renews, releases or finishes. A done job stays as it is,
    but for people who retry it.
12. Abandoned jobs, all of them and no others, are freed; with the third crash they are done.
13. A job is done by a run only if there was one.
14. Every run but the first of a job has a reason: the status of the run before, a recorded
    fault that hit its node since, a store that fell back, or people.
15. An ordered type runs one job at a time.
16. No dead process starts a run.

Children
17. When the end of a run is recorded, its children are durable.
18. The ids of children are those of their parent and their place, whatever the attempt.

Counting
19. The jobs in the store are those that came in, less those that were purged, and each is in
    one state; every row says what its history says.

The end
20. When everything is healed, every acknowledged job comes to exactly one terminal status,
    no lease and no slot is held, and all journals are ingested.

`Ledger` (5, 6, 8 to 12, 15), `Runs` (14, 16) and `Story` (2, 4, 13, 17) look at every call; the
functions here look at the whole, every virtual minute, after every start and fall, at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.journals import pending
from sim.ledger import require
from slimq.core.lifecycle import DONE
from slimq.store.base import Cursor

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.story import Story


def check_journal(story: Story, node: SimNode) -> None:
    """1: what is acknowledged and not in the store is in the journal."""
    owed = story.unstored[node]
    if owed:
        cursor = story.ledger.cursors.get(node.writer.name, Cursor())
        missing = owed.keys() - pending(node, cursor)
        require(not missing, "acknowledged, and lost", node.name, sorted(missing)[:3], len(missing))


def check_all(story: Story) -> None:
    """1 and 19."""
    for node in story.nodes:
        if node.up:
            check_journal(story, node)
    ledger, store = story.ledger, story.rig.look()
    for id_, row in ledger.rows.items():
        view = store.job(id_)
        require(view is not None and view.id == id_, "gone from the store", id_)
        assert view is not None, "it was just required"
        seen = (view.type, view.lock, view.attempt, view.crashes, view.status)
        must = (row.type, row.lock, row.attempt, row.crashes, row.status)
        require(seen == must, "the store says something else", id_, seen, must)
        require(view.dt == row.dt or row.lock != "", "due at another time", id_, view.dt, row.dt)
    totals = store.totals()
    states = totals.waiting + totals.running + totals.ok + totals.failed + totals.error
    require(states == len(ledger.rows), "the counts do not add up", totals, len(ledger.rows))
    require(totals.purged == ledger.purged, "purged another number", totals, ledger.purged)
    require(ledger.inserted - ledger.purged == states, "jobs are missing", totals)


def check_end(story: Story, settled: bool) -> None:
    """3, 7, 18 and 20."""
    ledger = story.ledger
    left = [(id_, row) for id_, row in ledger.rows.items() if row.lock != DONE]
    require(settled, "it does not come to an end", left[:3], len(left), story.unstored)
    check_all(story)
    for id_ in story.acked_ids:
        require(ledger.knows(id_), "acknowledged, and gone without a trace", id_)
    for node in story.nodes:
        require(not node.dispatcher.flights, "a slot is held", node.name)
    for request in story.requests.values():
        stored = sum(map(ledger.knows, request.ids))
        require(stored in (0, len(request.ids)), "a request is stored in part", request.ids[0])
        refused = request.fate == "refused"
        require(not (refused and stored), "refused, and stored all the same", request.ids[0])
    for (type_, key), firsts in story.by_key.items():
        owners = {ledger.aliases.get(first, first) for first in firsts} - {""}
        require(len(owners) <= 1, "one key, and jobs of several requests", type_, key, owners)
    for id_, row in ledger.rows.items():
        require(not row.parent or id_ in story.expected_children, "no place of its parent", id_)
