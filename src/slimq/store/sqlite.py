"""The SQLite store: jobs in one file, shared by all nodes of one machine.

    sqlite_file       the connection: opened when needed, healed by itself
    sqlite_turn       writers take turns
    sqlite_clock      one clock for all nodes, which no step moves
    sqlite_types      the types: numbers, exact counts, when they are due
    sqlite_ingest     accepted jobs come in
    sqlite_claim      leases are taken, renewed, given back
    sqlite_permits    limits that hold for all nodes
    sqlite_finish     runs end
    sqlite_marks      few jobs at a time, moved by core/lifecycle.py itself
    sqlite_tend       what the janitor does
    sqlite_changes    what people change
    sqlite_questions  what people ask
    sqlite_where      which jobs a filter means

All writes are BEGIN IMMEDIATE: a transaction that begins by reading could not be upgraded
(SQLITE_BUSY_SNAPSHOT), however long it waited.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw
import msgspec

from slimq.core.handler import Handler
from slimq.core.lifecycle import DONE, FREE, Lease
from slimq.core.limits import LEASE_MS
from slimq.store import sqlite_changes as changes
from slimq.store import sqlite_claim as claims
from slimq.store import sqlite_finish as finishes
from slimq.store import sqlite_ingest as ingests
from slimq.store import sqlite_permits as permits
from slimq.store import sqlite_questions as questions
from slimq.store import sqlite_tend as tending
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
from slimq.store.sqlite_clock import StoreClock, boot_id
from slimq.store.sqlite_file import QUERY_MS, SqliteFile, Write
from slimq.system.clock import Clock

BUSY_MS = 5_000  # how long a call waits for the lock: a hundred times the longest transaction


class SqliteStore:
    """Keeps the contract of `store/base.py` in one file, which is made when it is missing.

    `durable`: what a method changed survives a power cut when it returns (FULL). Else a
    power cut may take the store back to its last `barrier` (NORMAL); the journal heals that.
    One object is used by one thread at a time; any number of objects may share the file.
    `boot` names the boot that the clock's `boot_ms` counts from. `migrations`: what it knows
    of schemas; if not given, all that came with this slimq.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        durable: bool,
        busy_ms: int = BUSY_MS,
        query_ms: int = QUERY_MS,
        boot: str | None = None,
        migrations: Migrations | None = None,
    ) -> None:
        store_clock = StoreClock(clock, boot_id() if boot is None else boot)
        self._file = SqliteFile(
            path,
            store_clock,
            durable=durable,
            busy_ms=busy_ms,
            query_ms=query_ms,
            migrations=migrations,
        )

    def now(self) -> int:
        return self._file.now()

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Whatever is wrong with a file may be put right while the node runs."""

    def facts(self) -> StoreFacts:
        return StoreFacts(kind="sqlite", version=apsw.sqlite_lib_version())

    # The engine.

    def register(self, node: Node) -> bool:
        with self._file.write() as tx:
            query = "SELECT seen_at FROM node WHERE sysid = ?"
            seen_at = tx.db.execute(query, (node.sysid,)).get
            if seen_at is not None and int(seen_at) > tx.now - LEASE_MS:
                return False
            _put_node(tx, node)
            return True

    def beat(self, node: Node) -> None:
        with self._file.write() as tx:
            _put_node(tx, node)

    def leave(self, sysid: str) -> None:
        with self._file.write() as tx:
            tx.db.execute("DELETE FROM node WHERE sysid = ?", (sysid,))
            permits.forget(tx, sysid)

    def cursor(self, journal: str) -> Cursor:
        with self._file.read() as tx:
            return ingests.read_cursor(tx.db, journal)

    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        with self._file.write() as tx:
            ingests.move_cursor(tx.db, journal, expected, moved)
            return ingests.ingest(tx, jobs)

    def barrier(self) -> bool:
        return self._file.checkpoint()

    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        with self._file.read() as tx:
            return claims.due(tx.db, until, after, limit)

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
        wanted = claims.Wanted(limit, lease_ms, bytes_max, full, window_ms, ordered)
        with self._file.write() as tx:
            return claims.claim(tx, type, lock, wanted)

    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        with self._file.write() as tx:
            return claims.renew(tx, lock, leases, lease_ms)

    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        try:
            with self._file.write() as tx:
                finishes.finish(tx, lock, finished)
                return set()
        except finishes.Stale:
            pass
        with self._file.write() as tx:
            held, stale = finishes.split_stale(tx, lock, finished)
            finishes.finish(tx, lock, held)
            return stale

    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        with self._file.write() as tx:
            return claims.release(tx, lock, leases)

    def permit(self, lock: str, asks: Sequence[Ask], *, lease_ms: int) -> list[int]:
        with self._file.write() as tx:
            return permits.permit(tx, lock, asks, lease_ms)

    def leases(self, lock: str) -> set[Lease]:
        with self._file.read() as tx:
            return claims.leases(tx.db, lock)

    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        with self._file.write() as tx:
            if lock is not None:
                permits.forget(tx, lock)
            return tending.free(tx, limit, lock)

    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        with self._file.write() as tx:
            return tending.purge(tx, tending.Keep(ok_before, failed_before, bytes_max), limit)

    def control_version(self) -> int:
        return int(self._file.value(changes.CONTROL_VERSION))  # asked at every step

    def control(self) -> Control:
        with self._file.read() as tx:
            return changes.control(tx.db)

    # Questions.

    def job(self, id: str) -> JobView | None:
        with self._file.read() as tx:
            return questions.job(tx, id)

    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        with self._file.read() as tx:
            return questions.jobs(tx, where, before, limit)

    def type(self, type: str) -> TypeView | None:
        with self._file.read() as tx:
            return questions.type_(tx, type)

    def load(self, type: str, most: int) -> Load:
        with self._file.read() as tx:
            return questions.load(tx, type, most, self.now())

    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        with self._file.read() as tx:
            return questions.types(tx, client, jobtype, after, limit)

    def totals(self) -> Totals:
        with self._file.read() as tx:
            return questions.totals(tx)

    def nodes(self) -> list[Node]:
        with self._file.read() as tx:
            return questions.nodes(tx)

    def key_use(self, type: str, key: str) -> KeyUse | None:
        with self._file.read() as tx:
            return questions.key_use(tx, type, key)

    def versions(self, client: str, jobtype: str) -> list[Handler]:
        with self._file.read() as tx:
            return changes.versions(tx.db, client, jobtype)

    # Changes by hand.

    def cancel(self, ids: Sequence[str]) -> list[str]:
        with self._file.write() as tx:
            asked: dict[str, str] = {}
            for id_, job in questions.resolve_all(tx, ids):
                asked.setdefault(job, id_)
            return [asked[job] for job in changes.cancel(tx, list(asked))]

    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        with self._file.write() as tx:
            return changes.retry(tx, [job for _, job in questions.resolve_all(tx, ids)])

    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        with self._file.write(bounded=True) as tx:
            return changes.change_where(tx, verb, where, limit)

    def put_handler(self, handler: Handler) -> Handler:
        with self._file.write() as tx:
            return changes.put_handler(tx, handler)

    def delete_handler(self, client: str, jobtype: str) -> bool:
        with self._file.write() as tx:
            return changes.delete_handler(tx, client, jobtype)

    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        with self._file.write() as tx:
            return changes.rollback_handler(tx, client, jobtype, version)

    def put_policy(self, policy: Policy) -> None:
        with self._file.write() as tx:
            changes.put_policy(tx, policy)

    def purge_type(self, type: str, limit: int) -> int:
        with self._file.write() as tx:
            return changes.purge_type(tx, type, limit)


def _put_node(tx: Write, node: Node) -> None:
    about = msgspec.json.encode(node.about).decode()
    query = "REPLACE INTO node (sysid, started_at, seen_at, about) VALUES (?, ?, ?, ?)"
    tx.db.execute(query, (node.sysid, node.started_at, tx.now, about))
