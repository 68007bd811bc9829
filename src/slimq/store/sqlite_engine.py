"""What the engine does with the SQLite store: ingest, claim, renew, finish, free, purge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import apsw
import msgspec

from slimq.core.job import Job
from slimq.core.jobtype import split_type
from slimq.core.lifecycle import DONE, DONE_SHIFT_MS, FREE, Lease
from slimq.core.limits import CRASHES_MAX, IDEMPOTENCY_WINDOW_MS, LEASE_MS
from slimq.core.status import ABANDONED, Outcome, outcome_of
from slimq.store.base import (
    Claim,
    Cursor,
    CursorMoved,
    DueType,
    Finished,
    Freed,
    Ingested,
    NewJobs,
    Node,
)
from slimq.store.sqlite import SqliteConnection

LOST = "the node that ran it died or lost its lease"
COLUMN = {Outcome.OK: "ok", Outcome.FAILED: "failed", Outcome.ERROR: "error"}
INSERT = "INSERT OR IGNORE INTO job (id, type_id, dt, due_at, data, trace, parent) VALUES (?,?,?,?,?,?,?)"
CLAIMABLE = (
    "SELECT seq, length(data), dt FROM job WHERE type_id = ? AND lock = '' AND dt <= ?"
    " ORDER BY dt, seq LIMIT ?"
)
CLAIM = (
    "UPDATE job SET lock = ?, dt = ?, attempt = attempt + 1 WHERE seq = ?"
    " RETURNING id, attempt, failures, crashes, due_at, data, trace"
)
FINISH = (
    "UPDATE job SET dt = ?, lock = ?, status = ?, failures = ?, crashes = ?, result = ?, error = ?,"
    " node = ?, started_at = ?, output_id = ? WHERE id = ? AND lock = ? AND attempt = ?"
)
KEEP_RUN = "INSERT OR REPLACE INTO run VALUES (?,?,?,?,?,?,?,?,?)"
FREE_MARKS = (
    "SELECT seq, id, type_id, attempt, crashes, due_at, lock FROM job"
    " WHERE lock <> '' AND lock <> '__done' AND "
)
NOT_NEEDED = (
    " AND NOT EXISTS (SELECT 1 FROM job p WHERE job.parent <> '' AND p.id = job.parent"
    " AND p.lock <> '__done')"
)


class SqliteEngine(SqliteConnection):
    """Keeps EngineStore (with `control` from the class that joins both halves)."""

    # --- nodes -------------------------------------------------------------

    def register(self, node: Node) -> bool:
        with self.write() as db:
            seen = db.execute("SELECT seen_at FROM node WHERE sysid = ?", (node.sysid,)).fetchall()
            if seen and seen[0][0] > self.now() - LEASE_MS:
                return False
            self._put_node(db, node)
            return True

    def beat(self, node: Node) -> None:
        with self.write() as db:
            self._put_node(db, node)
            db.execute("DELETE FROM node WHERE seen_at < ?", (node.seen_at - 24 * 3_600_000,))

    def leave(self, sysid: str) -> None:
        with self.write() as db:
            db.execute("DELETE FROM node WHERE sysid = ?", (sysid,))

    def _put_node(self, db: apsw.Connection, node: Node) -> None:
        about = msgspec.json.encode(node.about).decode()
        values = (node.sysid, node.started_at, node.seen_at, about)
        db.execute("INSERT OR REPLACE INTO node VALUES (?,?,?,?)", values)

    # --- ingest ------------------------------------------------------------

    def cursor(self, journal: str) -> Cursor:
        sql = "SELECT segment, offset, body_offset, lines FROM cursor WHERE journal = ?"
        found = self.rows(sql, (journal,))
        return Cursor(*found[0]) if found else Cursor()

    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        with self.write() as db:
            if self.cursor(journal) != expected:
                raise CursorMoved
            done = Ingested(0, 0, 0, {})
            for new in jobs:
                if new.key and self._is_replay(db, new):
                    done.skipped += len(new.ids)
                    done.replays += 1
                else:
                    self._insert(db, new, done)
            db.execute("INSERT OR REPLACE INTO cursor VALUES (?,?,?,?,?)", (journal, *moved))
            return done

    def _insert(self, db: apsw.Connection, new: NewJobs, done: Ingested) -> None:
        type_id = self._type_id(db, new.type)
        dt, trace, parent = new.dt, new.trace, new.parent
        before = db.total_changes()
        db.executemany(
            INSERT,
            (
                (id_, type_id, dt, dt, data, trace, parent)
                for id_, data in zip(new.ids, new.data, strict=True)
            ),
        )
        added = db.total_changes() - before
        done.added += added
        done.skipped += len(new.ids) - added
        if added:
            done.heads[new.type] = min(dt, done.heads.get(new.type, dt))
            self._count(db, type_id, dt, waiting=added)

    def _type_id(self, db: apsw.Connection, name: str) -> int:
        known = self.type_ids.get(name)
        if known is None:
            client, jobtype = split_type(name)
            sql = "INSERT OR IGNORE INTO type (name, client, jobtype) VALUES (?,?,?)"
            db.execute(sql, (name, client, jobtype))
            sql = "SELECT type_id FROM type WHERE name = ?"
            known = db.execute(sql, (name,)).fetchall()[0][0]
            assert isinstance(known, int), "the column holds integers"
            self.type_ids[name] = known
        return known

    def _count(self, db: apsw.Connection, type_id: int, head: int | None, **changes: int) -> None:
        """Change the counters of a type, and lower its head."""
        sets = "".join(f", {name} = {name} + {int(by)}" for name, by in changes.items() if by)
        low = "min(coalesce(next_dt, ?1), ?1)" if head is not None else "next_dt"
        sql = f"UPDATE type SET next_dt = {low}{sets} WHERE type_id = ?2"  # noqa: S608 only own names
        db.execute(sql, (head, type_id))

    def _is_replay(self, db: apsw.Connection, new: NewJobs) -> bool:
        now = self.now()
        sql = "SELECT first, digest FROM idem WHERE type = ? AND key = ? AND at > ?"
        found = db.execute(sql, (new.type, new.key, now - IDEMPOTENCY_WINDOW_MS)).fetchall()
        if not found:
            values = (new.type, new.key, new.record, new.count, new.digest, now)
            db.execute("INSERT OR REPLACE INTO idem VALUES (?,?,?,?,?,?)", values)
            return False
        first, digest = found[0]
        if first == new.record or digest != new.digest:
            return False
        values = (new.record, new.count, first, now)
        db.execute("INSERT OR IGNORE INTO alias VALUES (?,?,?,?)", values)
        return True

    # --- leases ------------------------------------------------------------

    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        sql = (
            "SELECT name, max(next_dt, hold_until) FROM type WHERE next_dt IS NOT NULL"
            " AND name > ? AND next_dt <= ? AND hold_until <= ? ORDER BY name LIMIT ?"
        )
        return [DueType(*row) for row in self.rows(sql, (after, until, until, limit))]

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
        now = self.now()
        with self.write() as db:
            type_id = self._type_id(db, type)
            if ordered:
                sql = "SELECT running, hold_until FROM type WHERE type_id = ?"
                running, hold = db.execute(sql, (type_id,)).fetchall()[0]
                if running or hold > now:
                    return Claim([], None if running else hold)
            found = db.execute(CLAIMABLE, (type_id, now, limit)).fetchall()
            if found and len(found) < full and found[0][2] + window_ms > now:
                return Claim([], found[0][2] + window_ms)
            taken = _fitting(found, bytes_max)
            rows = db.executemany(CLAIM, ((lock, now + lease_ms, seq) for seq in taken))
            jobs = [Job(*row) for row in rows]
            sql = "SELECT min(dt) FROM job WHERE type_id = ? AND lock = ''"
            head = db.execute(sql, (type_id,)).fetchall()[0][0]
            sql = (
                "UPDATE type SET next_dt = ?, waiting = waiting - ?, running = running + ?"
                " WHERE type_id = ?"
            )
            db.execute(sql, (head, len(jobs), len(jobs), type_id))
            return Claim(jobs, head)

    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        sql = (
            "UPDATE job SET dt = max(dt, ?) WHERE id = ? AND lock = ? AND attempt = ? RETURNING id"
        )
        until = self.now() + lease_ms
        with self.write() as db:
            values = ((until, id_, lock, attempt) for id_, attempt in leases)
            kept = {row[0] for row in db.executemany(sql, values)}
        return {id_ for id_, _ in leases} - kept

    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        sql = (
            "UPDATE job SET lock = '', dt = due_at WHERE id = ? AND lock = ? AND attempt = ?"
            " RETURNING type_id, due_at"
        )
        with self.write() as db:
            values = ((id_, lock, attempt) for id_, attempt in leases)
            moved = list(db.executemany(sql, values))
            self._give_back(db, moved)
        return len(moved)

    def _give_back(self, db: apsw.Connection, moved: Iterable[tuple[int, int]]) -> None:
        """Running jobs became waiting: (type_id, dt) of each."""
        counts: Counter[int] = Counter()
        heads: dict[int, int] = {}
        for type_id, dt in moved:
            counts[type_id] += 1
            heads[type_id] = min(dt, heads.get(type_id, dt))
        for type_id, count in counts.items():
            self._count(db, type_id, heads[type_id], waiting=count, running=-count)

    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        stale: set[str] = set()
        with self.write() as db:
            for run in finished:
                self._finish_run(db, lock, run, stale)
        return stale

    def _finish_run(self, db: apsw.Connection, lock: str, run: Finished, stale: set[str]) -> None:
        now = self.now()
        output_id = self._keep_output(db, run.output, now)
        counts: Counter[str] = Counter()
        head: int | None = None
        hold = 0
        for move in run.moves:
            values = (
                move.dt, move.lock, move.status, move.failures, move.crashes, move.result,
                move.error, lock, run.started_at, output_id, move.id, lock, move.attempt,
            )  # fmt: skip
            db.execute(FINISH, values)
            if not db.changes():
                stale.add(move.id)
                continue
            counts["running"] -= 1
            if move.lock == DONE:
                counts[COLUMN[outcome_of(move.status)]] += 1
                continue
            counts["waiting"] += 1
            head = move.dt if head is None else min(head, move.dt)
            hold = max(hold, move.hold_until)
            kept = (
                move.id, move.attempt, move.status, lock, run.started_at, now, move.result,
                move.error, output_id,
            )  # fmt: skip
            db.execute(KEEP_RUN, kept)
        type_id = self._type_id(db, run.type)
        self._count(db, type_id, head, **counts)
        if hold:
            db.execute("UPDATE type SET hold_until = ? WHERE type_id = ?", (hold, type_id))

    def _keep_output(self, db: apsw.Connection, tail: bytes, now: int) -> int | None:
        if not tail:
            return None
        db.execute("INSERT INTO output (ended_at, tail) VALUES (?,?)", (now, tail))
        return db.last_insert_rowid()

    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        now = self.now()
        which, value = ("dt <= ?", now) if lock is None else ("lock = ?", lock)
        again = dead = 0
        heads: dict[str, int] = {}
        with self.write() as db:
            sql = f"{FREE_MARKS}{which} LIMIT ?"
            names = {}
            for seq, id_, type_id, attempt, crashes, due_at, owner in db.execute(
                sql, (value, limit)
            ).fetchall():
                run = (id_, attempt, ABANDONED, owner, 0, now, b"", LOST, None)
                db.execute(KEEP_RUN, run)
                is_dead = crashes + 1 >= CRASHES_MAX
                dt, mark = (now + DONE_SHIFT_MS, DONE) if is_dead else (due_at, FREE)
                db.execute(
                    "UPDATE job SET dt = ?, lock = ?, crashes = crashes + 1, status = ?, error = ?,"
                    " result = x'', node = ?, output_id = NULL WHERE seq = ?",
                    (dt, mark, ABANDONED, LOST, owner, seq),
                )
                if is_dead:
                    dead += 1
                    self._count(db, type_id, None, running=-1, error=1)
                    continue
                again += 1
                self._count(db, type_id, due_at, running=-1, waiting=1)
                name = names.get(type_id) or self._type_name(db, type_id)
                names[type_id] = name
                heads[name] = min(due_at, heads.get(name, due_at))
        return Freed(again, dead, heads)

    def _type_name(self, db: apsw.Connection, type_id: int) -> str:
        sql = "SELECT name FROM type WHERE type_id = ?"
        return str(db.execute(sql, (type_id,)).fetchall()[0][0])

    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        ok = "lock = '__done' AND status < 300"
        dead = "lock = '__done' AND status >= 300"
        count = 0
        with self.write() as db:
            self._forget_old(db, failed_before)
            count += self._purge(db, ok, ok_before + DONE_SHIFT_MS, limit)
            count += self._purge(db, dead, failed_before + DONE_SHIFT_MS, limit - count)
            if count < limit and self.bytes(db) > bytes_max:
                for which in (ok, dead):
                    count += self._purge(db, which, 1 << 62, limit - count)
        return count

    def _purge(self, db: apsw.Connection, which: str, before: int, limit: int) -> int:
        sql = (
            "SELECT seq, id, type_id, status FROM job"
            f" WHERE {which} AND dt < ?{NOT_NEEDED} ORDER BY dt LIMIT ?"
        )
        found = db.execute(sql, (before, limit)).fetchall()
        db.executemany("DELETE FROM run WHERE id = ?", ((row[1],) for row in found))
        db.executemany("DELETE FROM job WHERE seq = ?", ((row[0],) for row in found))
        counts = Counter((type_id, COLUMN[outcome_of(status)]) for _, _, type_id, status in found)
        for (type_id, column), count in counts.items():
            self._count(db, type_id, None, **{column: -count})
        db.execute("UPDATE meta SET value = value + ? WHERE name = 'purged'", (len(found),))
        return len(found)

    def _forget_old(self, db: apsw.Connection, failed_before: int) -> None:
        old = self.now() - IDEMPOTENCY_WINDOW_MS
        db.execute(
            "DELETE FROM idem WHERE (type, key) IN"
            " (SELECT type, key FROM idem WHERE at < ? LIMIT 1000)",
            (old,),
        )
        db.execute("DELETE FROM alias WHERE at < ?", (failed_before,))
        db.execute(
            "DELETE FROM output WHERE output_id IN"
            " (SELECT output_id FROM output WHERE ended_at < ? LIMIT 1000)",
            (failed_before,),
        )

    def bytes(self, db: apsw.Connection) -> int:
        def pragma(name: str) -> int:
            return int(db.execute(f"PRAGMA {name}").fetchall()[0][0])

        return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")


def _fitting(found: list[tuple[int, int, int]], bytes_max: int) -> list[int]:
    """Return the first seqs whose data fits together; at least one."""
    size = 0
    taken: list[int] = []
    for seq, length, _ in found:
        size += length
        if taken and size > bytes_max:
            break
        taken.append(seq)
    return taken
