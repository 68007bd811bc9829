"""Sees every call to the store and its answer, and has the ledger and the runs say whether they
may be so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sim.ledger import require
from sim.node import SimNode
from sim.stores import SqliteRig
from slimq.core import status as statuses

if TYPE_CHECKING:
    from sim.story import Story


class Witness:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._ledger, self._note = story.ledger, story.world.note
        self._offset = 0  # of the store's clock to the world's

    def booted(self) -> None:
        """The machine was: its store may have another clock, and no lease holds."""
        self._offset = 0

    def observe(
        self, node: SimNode, inner: Any, name: str, args: Any, kwargs: Any, result: Any
    ) -> None:
        watch = _WATCHES.get(name)
        if watch is not None:
            if name not in ("leases", "barrier"):  # these take the clock as it was
                self._follow_clock(inner.now())
            watch(self, node, inner, args, kwargs, result)

    def _follow_clock(self, now: int) -> None:
        """A SQLite store moves its leases when it is opened by a node whose clock was set."""
        offset = now - self._story.world.now
        if offset != self._offset and self._offset and isinstance(self._story.rig, SqliteRig):
            for row in self._ledger.running.values():
                row.dt += offset - self._offset
        self._offset = offset

    def _on_ingest(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        accounted = self._ledger.ingested(*args, result, inner.job)
        for id_ in accounted:
            for ids in self._story.unstored.values():
                ids.pop(id_, None)
        new = [new for new in args[3] if not new.parent]
        for each in new:
            record = self._story.requests.get(each.record) or self._story.requests.get(each.ids[0])
            known = record is not None or self._is_in_a_request(each.ids[0])
            require(known, "a job nobody added", each.ids[0])
        added = [each.ids[0] for each in args[3] if each.parent]
        strange = [id_ for id_ in added if id_ not in self._story.expected_children]
        require(not strange, "children that nobody added", strange)
        self._note(f"{node.name} ingests {len(accounted)} to {args[2]}")

    def _is_in_a_request(self, id_: str) -> bool:
        return any(id_ in request.ids for request in self._story.requests.values())

    def _on_claim(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.claimed(*args, result, inner.now(), kwargs)
        if result.jobs:
            ids = [job.id for job in result.jobs]
            self._note(f"{node.name} claims {len(ids)} of {args[0]} from {ids[0]}")

    def _on_renew(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.renewed(*args, result, inner.now(), kwargs["lease_ms"])
        self._note(f"{node.name} renews {len(args[1])}, lost {len(result)}")

    def _on_release(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.released(*args, result)
        self._note(f"{node.name} releases {result}")

    def _on_finish(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        made = self._ledger.finished(*args, result)
        for id_, move in made:
            require(id_ in self._story.runs.last, "done without a run", id_)
            if move.status == statuses.RETRY_NO_JOURNAL:
                self._story.runs.last[id_].end = "again"
            born = self._story.children.get((args[0], id_, move.attempt))
            if born is not None and move.status == born.status:  # else it had another end
                self._story.owe(born.node, born.ids)
        self._note(f"{node.name} finishes {len(made)}, stale {len(result)}")

    def _on_leases(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.leases(*args, result)

    def _on_free(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.freed(args[0], kwargs.get("lock"), result, inner.now())
        if result.again or result.dead:
            self._note(f"{node.name} frees {result.again} and {result.dead}")

    def _on_purge(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.purge(result, max(kwargs["ok_before"], kwargs["failed_before"]), inner.job)
        if result:
            self._note(f"{node.name} purges {result}")

    def _on_barrier(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        if result and isinstance(self._story.rig, SqliteRig):
            self._story.rig.barrier_made()
            self._story.save_store()

    def _on_cancel(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.cancelled(result, inner.now())
        self._by_hand(args[0])
        self._note(f"{node.name} cancels {len(result)}")

    def _on_retry(self, node: SimNode, inner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._ledger.retried(args[0], inner.now())
        self._by_hand(args[0])
        self._note(f"{node.name} retries {len(args[0])}")

    def _by_hand(self, ids: list[str]) -> None:
        for id_ in ids:
            own_id = self._ledger.aliases.get(id_, id_)
            self._story.runs.by_hand[own_id] = self._story.world.now


_WATCHES: dict[str, Callable[..., None]] = {
    name: getattr(Witness, f"_on_{name}")
    for name in (
        *("ingest", "claim", "renew", "release", "finish", "leases", "free", "purge"),
        *("barrier", "cancel", "retry"),
    )
}
