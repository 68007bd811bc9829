"""The PostgreSQL store: jobs in one database, shared by nodes on any number of machines.

    postgres_link       the connection: opened when needed, healed by itself
    postgres_trouble    what is wrong with it, in one line
    postgres_schema     the schema: checked, and brought up to date
    postgres_tx         a transaction, and the numbers of types
    postgres_types      the types: exact counts, and when they are due
    postgres_ingest     accepted jobs come in
    postgres_floor      where claims begin to look
    postgres_claim      leases are taken, renewed, given back
    postgres_permits    limits that hold for all nodes
    postgres_finish     runs end
    postgres_marks      few jobs at a time, moved by core/lifecycle.py itself
    postgres_tend       what the janitor does
    postgres_changes    what people change
    postgres_questions  what people ask
    postgres_facts      what it says of itself
    postgres_where      which jobs a filter means

Statements run at READ COMMITTED: each sees what was committed before it, and looks again
at a row that it had to wait for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from slimq.core.handler import Handler
from slimq.core.lifecycle import DONE, FREE, Lease
from slimq.core.limits import LEASE_MS
from slimq.store import postgres_changes as changes
from slimq.store import postgres_claim as claims
from slimq.store import postgres_facts
from slimq.store import postgres_finish as finishes
from slimq.store import postgres_ingest as ingests
from slimq.store import postgres_permits as permits
from slimq.store import postgres_questions as questions
from slimq.store import postgres_tend as tending
from slimq.store.base import (
    Ask,
    Claim,
    Control,
    Cursor,
    DueType,
    Finished,
    Freed,
    Ingested,
    JobFilter,
    JobView,
    KeyUse,
    Load,
    NewJobs,
    Node,
    Policy,
    StoreFacts,
    Totals,
    TypeView,
)
from slimq.store.migrate import Migrations
from slimq.store.postgres_floor import Floors
from slimq.store.postgres_link import ANSWER_S, QUERY_MS, PostgresLink
from slimq.store.postgres_tx import Tx
from slimq.store.postgres_types import SHARDS
from slimq.system.clock import Clock

R = TypeVar("R")

SWEEP_MS = 10_000  # between two comparisons of when types are due with their jobs
SLOTS_MS = 3_600_000  # between two looks at the slots of done jobs
CONTROL_MS = 1_500  # so long is what the last `due` said of the control version good

_REGISTER = """
INSERT INTO slimq.node AS n (sysid, started_at, seen_at, about)
VALUES (%s, %s::bigint, slimq.now_ms(), %s)
ON CONFLICT (sysid) DO UPDATE SET started_at = excluded.started_at,
  seen_at = excluded.seen_at, about = excluded.about
"""
_IF_DEAD = "WHERE n.seen_at <= slimq.now_ms() - %s::bigint"


class PostgresStore:
    """Keeps the contract of `store/base.py` in the schema `slimq` of one database, which is
    made when it is missing. `url` is a connection URI of libpq; raises nothing by itself.
    `migrations`: what it knows of schemas; if not given, all that came with this slimq.

    One object is used by one thread at a time; any number of objects, on any number of
    machines, may share the database. What a method changed is durable when it returns, but
    for leases and signs of life.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        query_ms: int = QUERY_MS,
        answer_s: float = ANSWER_S,
        floors: Floors | None = None,
        migrations: Migrations | None = None,
    ) -> None:
        self._link = PostgresLink(
            url, clock, query_ms=query_ms, answer_s=answer_s, migrations=migrations
        )
        self._clock = clock
        self._floors = floors or Floors()
        self._shard = random.randrange(SHARDS)  # noqa: S311 -- spreads writers, no secret
        self._sweep_at = self._slots_at = 0
        self._control: tuple[int, int] | None = None  # version, and when it was said (boot time)

    def now(self) -> int:
        return self._link.now()

    def close(self) -> None:
        self._link.close()

    def check(self) -> None:
        self._link.check()

    def facts(self) -> StoreFacts:
        return self._link.once(postgres_facts.facts)

    # The engine.

    def register(self, node: Node) -> bool:
        about = msgspec.json.encode(node.about).decode()
        row = (node.sysid, node.started_at, about, LEASE_MS)
        tending.make_slots(self._link, self.now())  # before the first job is done
        return self._link.once(lambda tx: tx.do(f"{_REGISTER} {_IF_DEAD}", row)) == 1

    def beat(self, node: Node) -> None:
        about = msgspec.json.encode(node.about).decode()
        self._link.once(lambda tx: tx.do(_REGISTER, (node.sysid, node.started_at, about)))

    def leave(self, sysid: str) -> None:
        def work(tx: Tx) -> None:
            tx.do("DELETE FROM slimq.node WHERE sysid = %s", (sysid,))
            permits.forget(tx, sysid)

        self._link.write(work)

    def cursor(self, journal: str) -> Cursor:
        return self._link.once(lambda tx: ingests.read_cursor(tx, journal))

    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        def work(tx: Tx) -> tuple[Ingested, dict[int, int]]:
            ingests.move_cursor(tx, journal, expected, moved)
            return ingests.ingest(tx, jobs, self._shard)

        ingested, heads = self._link.write(work)
        self._lower(heads)
        return ingested

    def barrier(self) -> bool:
        """Every commit that counts waited for the disk."""
        return True

    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        now = self._clock.boot_ms()
        if not after and now >= self._sweep_at:
            self._link.once(claims.sweep)
            self._sweep_at = now + SWEEP_MS
        found = self._link.once(lambda tx: claims.due(tx, until, after, limit, self._floors))
        self._link.heard(found.now)
        self._control = (found.control_version, now)
        return found.types

    def claim(
        self,
        type: str,
        lock: str,
        limit: int,
        *,
        lease_ms: int,
        bytes_max: int,
        full: int = 0,
        window_ms: int = 0,
        ordered: bool = False,
    ) -> Claim:
        assert lock not in (FREE, DONE), "a lock is a sysid"
        type_id = self._link.once(lambda tx: tx.types.find(tx, type))
        if type_id is None or limit < 1:
            return Claim([], None)
        limit = 1 if ordered else limit
        wanted = claims.Wanted(limit, lease_ms, bytes_max, full, window_ms, ordered)

        def work(tx: Tx) -> tuple[Claim, int]:
            if ordered:
                held_until, now = claims.held_until(tx, type_id)
                if held_until > now:
                    return Claim([], held_until), now
            return claims.claim(tx, type_id, lock, wanted, self._floors, self.now(), self._shard)

        claim, now = self._link.write(work) if ordered else self._link.once(work)
        self._link.heard(now)
        return claim

    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        return self._link.once(lambda tx: claims.renew(tx, lock, leases, lease_ms))

    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        if lock in (FREE, DONE):
            return {id_ for batch in finished for move in batch.moves for id_ in move.ids}
        run = self._link.once if finishes.is_simple(finished) else self._link.write
        stale, heads = run(lambda tx: finishes.finish(tx, lock, finished, self._shard))
        self._lower(heads)
        return stale

    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        count, heads = self._link.write(lambda tx: claims.release(tx, lock, leases, self._shard))
        self._lower(heads)
        return count

    def permit(self, lock: str, asks: Sequence[Ask], *, lease_ms: int) -> list[int]:
        return self._link.write(lambda tx: permits.permit(tx, lock, asks, lease_ms))

    def leases(self, lock: str) -> set[Lease]:
        return self._link.once(lambda tx: claims.leases(tx, lock))

    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        if lock is None and not self._link.once(tending.is_abandoned):
            return Freed(0, 0, {})

        def work(tx: Tx) -> tuple[Freed, dict[int, int]]:
            if lock is not None:
                permits.forget(tx, lock)
            return tending.free(tx, limit, lock, self._shard)

        freed, heads = self._link.write(work)
        self._lower(heads)
        return freed

    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        keep = tending.Keep(ok_before, failed_before, bytes_max)
        dropped = 0
        if self.now() >= self._slots_at:
            tending.make_slots(self._link, self.now())
            dropped = tending.drop_slots(self._link, keep, self._shard)
            self._slots_at = self.now() + SLOTS_MS
        if not self._link.once(lambda tx: tending.is_past(tx, keep)):
            return dropped
        return dropped + self._link.write(lambda tx: tending.purge(tx, keep, limit, self._shard))

    def control_version(self) -> int:
        if self._control is not None:
            version, said_at = self._control
            if self._clock.boot_ms() - said_at < CONTROL_MS:
                return version
        return int(self._link.once(lambda tx: tx.one(changes.CONTROL_VERSION))[0])

    def control(self) -> Control:
        return self._link.read(changes.control)

    # Questions.

    def job(self, id: str) -> JobView | None:
        return self._link.read(lambda tx: questions.job(tx, id))

    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        return self._link.read(lambda tx: questions.jobs(tx, where, before, limit))

    def type(self, type: str) -> TypeView | None:
        return self._link.read(lambda tx: questions.type_(tx, type))

    def load(self, type: str, most: int) -> Load:
        return self._link.read(lambda tx: questions.load(tx, type, most))

    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        return self._link.read(lambda tx: questions.types(tx, client, jobtype, after, limit))

    def totals(self) -> Totals:
        return self._link.read(questions.totals)

    def nodes(self) -> list[Node]:
        return self._link.read(questions.nodes)

    def key_use(self, type: str, key: str) -> KeyUse | None:
        return self._link.once(lambda tx: questions.key_use(tx, type, key))

    def versions(self, client: str, jobtype: str) -> list[Handler]:
        return self._link.read(lambda tx: changes.versions(tx, client, jobtype))

    # Changes by hand.

    def cancel(self, ids: Sequence[str]) -> list[str]:
        def work(tx: Tx) -> list[str]:
            asked: dict[str, str] = {}
            for id_, job in questions.resolve_all(tx, ids):
                asked.setdefault(job, id_)
            return [asked[job] for job in changes.cancel(tx, list(asked), self._shard)]

        return self._link.write(work)

    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        def work(tx: Tx) -> dict[str, int]:
            jobs = [job for _, job in questions.resolve_all(tx, ids)]
            return changes.retry(tx, jobs, self._shard)

        return self._link.write(work)

    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        return self._link.bounded(
            lambda tx: changes.change_where(tx, verb, where, limit, self._shard)
        )

    def put_handler(self, handler: Handler) -> Handler:
        return self._change(lambda tx: changes.put_handler(tx, handler))

    def delete_handler(self, client: str, jobtype: str) -> bool:
        return self._change(lambda tx: changes.delete_handler(tx, client, jobtype))

    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        return self._change(lambda tx: changes.rollback_handler(tx, client, jobtype, version))

    def put_policy(self, policy: Policy) -> None:
        self._change(lambda tx: changes.put_policy(tx, policy))

    def purge_type(self, type: str, limit: int) -> int:
        return self._link.write(lambda tx: changes.purge_type(tx, type, limit, self._shard))

    def _lower(self, heads: Mapping[int, int]) -> None:
        for type_id, dt in heads.items():
            self._floors.lower(type_id, dt)

    def _change(self, work: Callable[[Tx], R]) -> R:
        self._control = None
        return self._link.write(work)
