"""What may be asked of the SQLite store, and changed by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw
import msgspec

from slimq.core.handler import Handler, parse_options
from slimq.core.jobid import block_from, to_base64
from slimq.core.lifecycle import DONE, DONE_SHIFT_MS, FREE, finished_at
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS, QUERY_SECONDS_MAX
from slimq.core.status import CANCELLED, outcome_of
from slimq.store.base import (
    Control,
    JobFilter,
    JobView,
    KeyUse,
    Node,
    Policy,
    Run,
    Totals,
    TypeView,
)
from slimq.store.sqlite_engine import COLUMN, KEEP_RUN, SqliteEngine

__all__ = ["SqliteStore"]

JOB = (
    "SELECT j.id, t.name, j.dt, j.lock, j.attempt, j.failures, j.crashes, j.status, j.due_at,"
    " j.result, j.error, j.parent, j.trace, j.node, j.started_at, j.output_id, j.data"
    " FROM job j JOIN type t USING (type_id)"
)
STATES = {
    "deferred": "j.lock = '' AND j.dt > :now",
    "ready": "j.lock = '' AND j.dt <= :now",
    "running": "j.lock <> '' AND j.lock <> '__done' AND j.dt > :now",
    "abandoned": "j.lock <> '' AND j.lock <> '__done' AND j.dt <= :now",
    "done": "j.lock = '__done'",
}
OUTCOMES = {
    "ok": "j.lock = '__done' AND j.status < 300",
    "failed": "j.lock = '__done' AND j.status BETWEEN 400 AND 499",
    "error": "j.lock = '__done' AND j.status >= 500",
}
TYPE = "SELECT name, waiting, running, ok, failed, error, next_dt, hold_until FROM type"


class SqliteStore(SqliteEngine):
    """Keeps EngineStore and ControlStore. One thread at a time."""

    # --- questions ---------------------------------------------------------

    def job(self, id: str) -> JobView | None:
        found = self.rows(f"{JOB} WHERE j.id = ?", (id,))
        if not found:
            found = self.rows(f"{JOB} WHERE j.id = ?", (self._resolve(id),))
        return self._whole_view(found[0]) if found else None

    def _resolve(self, id: str) -> str:
        """Return the id that the owner of the key has, for one of a replayed request."""
        sql = (
            "SELECT loser, count, winner FROM alias WHERE loser <= ? ORDER BY loser DESC LIMIT 100"
        )
        for loser, count, winner in self.rows(sql, (id,)):
            index = block_from(loser, count).index(id)
            if index is not None:
                return block_from(winner, count).id_at(index)
        return id

    def _whole_view(self, row: Sequence[Any]) -> JobView:
        view = _view(row)
        sql = (
            "SELECT attempt, status, node, started_at, ended_at, result, error,"
            " (SELECT tail FROM output o WHERE o.output_id = run.output_id)"
            " FROM run WHERE id = ? ORDER BY attempt"
        )
        runs = [_run(found) for found in self.rows(sql, (view.id,))]
        node, started_at, output_id = row[13:16]
        if view.lock == DONE and view.attempt and view.attempt not in {r.attempt for r in runs}:
            tail = self.rows("SELECT tail FROM output WHERE output_id = ?", (output_id,))
            ended = (finished_at(view.dt), view.result, view.error, tail[0][0] if tail else b"")
            runs.append(_run((view.attempt, view.status, node, started_at, *ended)))
        view.data, view.runs = row[16], runs
        return view

    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        sql, values = self._where(where)
        values |= {"before": before or "~~~~~~~~", "limit": limit}
        sql = f"{JOB} WHERE j.id < :before AND {sql} ORDER BY j.id DESC LIMIT :limit"
        return [_view(row) for row in self._bounded(sql, values)]

    def _bounded(self, sql: str, values: dict[str, Any]) -> list[Any]:
        """Ask a question that ends after QUERY_SECONDS_MAX, whatever it has to read."""
        end = time.monotonic() + QUERY_SECONDS_MAX
        with self.use() as db:
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            try:
                return db.execute(sql, values).fetchall()
            finally:
                db.set_progress_handler(None)

    def _where(self, where: JobFilter) -> tuple[str, dict[str, Any]]:
        values: dict[str, Any] = {"now": self.now()}
        parts = ["1"]
        for name in ("client", "jobtype"):
            if (value := getattr(where, name)) is not None:
                parts.append(f"t.{name} = :{name}")
                values[name] = value
        if where.state is not None:
            parts.append(STATES[where.state])
        if where.outcome is not None:
            parts.append(OUTCOMES[where.outcome])
        for name, sign in (("since", ">="), ("until", "<")):
            if (at := getattr(where, name)) is not None:
                parts.append(f"j.id {sign} :{name}")
                values[name] = to_base64(max(at, 0), 7)
        return " AND ".join(parts), values

    def type(self, type: str) -> TypeView | None:
        found = self.rows(f"{TYPE} WHERE name = ?", (type,))
        return _type_view(found[0]) if found else None

    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        sql = (
            f"{TYPE} WHERE name > ? AND client = coalesce(?, client)"
            " AND jobtype = coalesce(?, jobtype) ORDER BY name LIMIT ?"
        )
        return [_type_view(row) for row in self.rows(sql, (after, client, jobtype, limit))]

    def totals(self) -> Totals:
        names = ("waiting", "running", "ok", "failed", "error")
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
        counts = self.rows(f"SELECT {sums}, count(*) FROM type")[0]
        purged = self.rows("SELECT value FROM meta WHERE name = 'purged'")[0][0]
        with self.use() as db:
            size = self.bytes(db)
        fields = dict(zip(names, counts[:5], strict=True))
        return Totals(purged=purged, bytes=size, types=counts[5], **fields)

    def nodes(self) -> list[Node]:
        sql = "SELECT sysid, started_at, seen_at, about FROM node ORDER BY sysid"
        return [Node(*row[:3], msgspec.json.decode(row[3])) for row in self.rows(sql)]

    def key_use(self, type: str, key: str) -> KeyUse | None:
        sql = "SELECT first, count, digest FROM idem WHERE type = ? AND key = ? AND at > ?"
        found = self.rows(sql, (type, key, self.now() - IDEMPOTENCY_WINDOW_MS))
        return KeyUse(*found[0]) if found else None

    def control_version(self) -> int:
        return int(self.rows("SELECT value FROM meta WHERE name = 'control_version'")[0][0])

    def control(self) -> Control:
        version = self.control_version()
        handlers = self.rows("SELECT * FROM handler WHERE current")
        policies = self.rows("SELECT * FROM policy")
        return Control(version, [_handler(row) for row in handlers], [_policy(p) for p in policies])

    def versions(self, client: str, jobtype: str) -> list[Handler]:
        sql = "SELECT * FROM handler WHERE client = ? AND jobtype = ? ORDER BY version DESC"
        return [_handler(row) for row in self.rows(sql, (client, jobtype))]

    # --- handlers and policies ---------------------------------------------

    def put_handler(self, handler: Handler) -> Handler:
        name = (handler.client, handler.jobtype)
        with self.write() as db:
            sql = "SELECT coalesce(max(version), 0) FROM handler WHERE client = ? AND jobtype = ?"
            version = int(db.execute(sql, name).fetchall()[0][0]) + 1
            stored = msgspec.structs.replace(handler, version=version, created_at=self.now())
            body, options = (msgspec.json.encode(v).decode() for v in (stored.body, stored.written))
            values = (*name, version, stored.lang, body, options, stored.created_at, 0)
            db.execute("INSERT INTO handler VALUES (?,?,?,?,?,?,?,?)", values)
            self._make_current(db, name, version)
        return stored

    def delete_handler(self, client: str, jobtype: str) -> bool:
        with self.write() as db:
            db.execute("DELETE FROM handler WHERE client = ? AND jobtype = ?", (client, jobtype))
            changed = db.changes() > 0
            self._bump(db)
        return changed

    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        name = (client, jobtype)
        with self.write() as db:
            sql = "SELECT * FROM handler WHERE client = ? AND jobtype = ? ORDER BY version DESC"
            rows = db.execute(sql, name).fetchall()
            current = next((row[2] for row in rows if row[7]), 0)
            for row in rows:
                if row[2] < current if version is None else row[2] == version:
                    self._make_current(db, name, row[2])
                    return _handler(row)
        return None

    def put_policy(self, policy: Policy) -> None:
        values = (
            policy.client, policy.jobtype, policy.paused, policy.weight, policy.concurrency,
            policy.batch_size,
        )  # fmt: skip
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO policy VALUES (?,?,?,?,?,?)", values)
            self._bump(db)

    def _make_current(self, db: apsw.Connection, name: tuple[str, str], version: int) -> None:
        sql = "UPDATE handler SET current = (version = ?) WHERE client = ? AND jobtype = ?"
        db.execute(sql, (version, *name))
        self._bump(db)

    def _bump(self, db: apsw.Connection) -> None:
        db.execute("UPDATE meta SET value = value + 1 WHERE name = 'control_version'")

    # --- jobs by hand ------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> list[str]:
        with self.write() as db:
            return [id_ for id_ in ids if self._cancel(db, id_)]

    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        now = self.now()
        with self.write() as db:
            names = [self._retry(db, id_) for id_ in ids]
        return {name: now for name in names if name is not None}

    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        change: Callable[[apsw.Connection, str], Any] = (
            self._cancel if verb == "cancel" else self._retry
        )
        fits = "j.lock <> '__done'"
        if verb == "retry":
            fits = "(j.lock = '__done' OR (j.lock = '' AND j.dt > :now))"
        sql, values = self._where(where)
        values["limit"] = limit
        sql = (
            "SELECT j.id FROM job j JOIN type t USING (type_id)"
            f" WHERE {fits} AND {sql} ORDER BY j.seq LIMIT :limit"
        )
        with self.write() as db:
            ids = [row[0] for row in db.execute(sql, values).fetchall()]
            return sum(1 for id_ in ids if change(db, id_))

    def purge_type(self, type: str, limit: int) -> int:
        sql = (
            "SELECT id FROM job WHERE lock = '' AND type_id ="
            " (SELECT type_id FROM type WHERE name = ?) LIMIT ?"
        )
        with self.write() as db:
            ids = [row[0] for row in db.execute(sql, (type, limit)).fetchall()]
            return sum(self._cancel(db, id_) for id_ in ids)

    def _cancel(self, db: apsw.Connection, id_: str) -> bool:
        row = self._mark(db, id_)
        if row is None or row[1] == DONE:
            return False
        sql = "UPDATE job SET dt = ?, lock = ?, status = ? WHERE id = ?"
        db.execute(sql, (self.now() + DONE_SHIFT_MS, DONE, CANCELLED, id_))
        was = "waiting" if row[1] == FREE else "running"
        self._count(db, row[0], None, failed=1, **{was: -1})
        return True

    def _retry(self, db: apsw.Connection, id_: str) -> str | None:
        """Run a job again; return its type, or None when it is neither done nor deferred."""
        now = self.now()
        row = self._mark(db, id_)
        if row is None or (row[1] != DONE and not (row[1] == FREE and row[2] > now)):
            return None
        type_id, lock, dt, status, attempt = row
        if lock == DONE:
            if attempt:
                self._keep_last_run(db, id_, dt)
            sql = "UPDATE job SET dt = ?1, due_at = ?1, lock = '', failures = 0, crashes = 0 WHERE id = ?2"
            self._count(db, type_id, now, waiting=1, **{COLUMN[outcome_of(status)]: -1})
        else:
            sql = "UPDATE job SET dt = ?1 WHERE id = ?2"
            self._count(db, type_id, now)
        db.execute(sql, (now, id_))
        return self._type_name(db, type_id)

    def _keep_last_run(self, db: apsw.Connection, id_: str, dt: int) -> None:
        sql = (
            "SELECT id, attempt, status, node, started_at, ?, result, error, output_id"
            " FROM job WHERE id = ?"
        )
        db.execute(KEEP_RUN, db.execute(sql, (finished_at(dt), id_)).fetchall()[0])

    def _mark(self, db: apsw.Connection, id_: str) -> tuple[Any, ...] | None:
        sql = "SELECT type_id, lock, dt, status, attempt FROM job WHERE id = ?"
        found = db.execute(sql, (id_,)).fetchall()
        return found[0] if found else None


def _view(row: Sequence[Any]) -> JobView:
    names = (
        "id", "type", "dt", "lock", "attempt", "failures", "crashes", "status", "due_at",
        "result", "error", "parent", "trace",
    )  # fmt: skip
    return JobView(**dict(zip(names, row[:13], strict=True)))


def _run(row: Iterable[Any]) -> Run:
    attempt, status, node, started_at, ended_at, result, error, output = row
    return Run(
        attempt=attempt,
        status=status,
        node=node,
        started_at=started_at,
        ended_at=ended_at,
        result=result,
        error=error,
        output=output or b"",
    )


def _type_view(row: Sequence[Any]) -> TypeView:
    names = ("type", "waiting", "running", "ok", "failed", "error", "next_at", "hold_until")
    return TypeView(**dict(zip(names, row, strict=True)))


def _handler(row: Sequence[Any]) -> Handler:
    client, jobtype, version, lang, body, options, created_at, _ = row
    written = msgspec.json.decode(options)
    return Handler(
        client=client,
        jobtype=jobtype,
        version=version,
        lang=lang,
        body=msgspec.json.decode(body),
        options=parse_options(lang, written),
        written=written,
        created_at=created_at,
    )


def _policy(row: Sequence[Any]) -> Policy:
    client, jobtype, paused, weight, concurrency, batch_size = row
    return Policy(
        client=client,
        jobtype=jobtype,
        paused=None if paused is None else bool(paused),
        weight=weight,
        concurrency=concurrency,
        batch_size=batch_size,
    )
