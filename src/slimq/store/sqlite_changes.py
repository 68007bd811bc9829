"""What people set and change in a SQLite store: handlers, policies, single jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from slimq.core import lifecycle
from slimq.core.handler import Handler
from slimq.core.lifecycle import DONE, FREE
from slimq.store.base import Control, JobFilter, Policy
from slimq.store.counts import ERROR, FAILED, OK, RUNNING, WAITING
from slimq.store.rows import handler_of, policy_of
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_marks import (
    Marked,
    keep_last_runs,
    read_marks,
    read_marks_where,
    write_marks,
)
from slimq.store.sqlite_types import to_json
from slimq.store.sqlite_where import any_order, choose

_HANDLER = "client, jobtype, version, lang, body, options, created_at"
_CURRENT = """
SELECT h.client, h.jobtype, h.version, h.lang, h.body, h.options, h.created_at
FROM handler_name AS n JOIN handler AS h
  ON h.client = n.client AND h.jobtype = n.jobtype AND h.version = n.current
ORDER BY h.client, h.jobtype
"""
_VERSIONS = f"""
SELECT {_HANDLER} FROM handler WHERE client = ? AND jobtype = ? ORDER BY version DESC
"""  # noqa: S608
_NEXT_VERSION = """
INSERT INTO handler_name (client, jobtype, current, last) VALUES (?, ?, 1, 1)
ON CONFLICT DO UPDATE SET last = last + 1, current = last + 1 RETURNING current
"""
WAITING_OF_TYPE = """
INDEXED BY job_waiting WHERE type_id = ? AND lock = '' ORDER BY dt, seq LIMIT ?
"""
_FITS = {  # kinds of jobs that a verb fits, and the condition that a kind alone does not say
    "cancel": [
        (WAITING, "lock = ''"),
        (RUNNING, "lock <> '' AND lock <> '__done'"),
    ],
    "retry": [
        (OK, "lock = '__done' AND status < 300"),
        (FAILED, "lock = '__done' AND status >= 300 AND status < 500"),
        (ERROR, "lock = '__done' AND status >= 500"),
        (WAITING, "lock = '' AND dt > :now"),
    ],
}
_OLDER = """
SELECT version FROM handler WHERE client = ?1 AND jobtype = ?2 AND version = coalesce(?3,
  (SELECT max(h.version) FROM handler AS h JOIN handler_name AS n USING (client, jobtype)
   WHERE client = ?1 AND jobtype = ?2 AND h.version < n.current))
"""
_END_HOLDS = """
UPDATE type SET hold_until = 0
WHERE hold_until > 0 AND type_id IN (SELECT value FROM json_each(?))
"""


CONTROL_VERSION = "SELECT value FROM meta WHERE name = 'control_version'"


def control(db: apsw.Connection) -> Control:
    handlers = [handler_of(row) for row in db.execute(_CURRENT)]
    policies = [policy_of(row) for row in db.execute("SELECT * FROM policy ORDER BY 1, 2")]
    return Control(int(db.execute(CONTROL_VERSION).get), handlers, policies)


def versions(db: apsw.Connection, client: str, jobtype: str) -> list[Handler]:
    return [handler_of(row) for row in db.execute(_VERSIONS, (client, jobtype))]


def put_handler(tx: Write, handler: Handler) -> Handler:
    name = (handler.client, handler.jobtype)
    version = int(tx.db.execute(_NEXT_VERSION, name).get)
    body, options = to_json(handler.body), to_json(handler.written)
    row = (*name, version, handler.lang, body, options, handler.created_at or tx.now)
    tx.db.execute("INSERT INTO handler VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    _changed(tx.db)
    return handler_of(row)


def delete_handler(tx: Write, client: str, jobtype: str) -> bool:
    name = (client, jobtype)
    tx.db.execute("DELETE FROM handler WHERE client = ? AND jobtype = ?", name)
    if not tx.db.changes():
        return False
    tx.db.execute("UPDATE handler_name SET current = NULL WHERE client = ? AND jobtype = ?", name)
    _changed(tx.db)
    return True


def rollback_handler(tx: Write, client: str, jobtype: str, version: int | None) -> Handler | None:
    found = tx.db.execute(_OLDER, (client, jobtype, version)).get
    if found is None:
        return None
    query = "UPDATE handler_name SET current = ? WHERE client = ? AND jobtype = ?"
    tx.db.execute(query, (found, client, jobtype))
    _changed(tx.db)
    query = f"SELECT {_HANDLER} FROM handler WHERE client = ? AND jobtype = ? AND version = ?"  # noqa: S608
    return handler_of(tx.db.execute(query, (client, jobtype, found)).get)


def put_policy(tx: Write, policy: Policy) -> None:
    row = (
        policy.client,
        policy.jobtype,
        policy.paused,
        policy.weight,
        policy.concurrency,
        policy.batch_size,
    )
    tx.db.execute("REPLACE INTO policy VALUES (?, ?, ?, ?, ?, ?)", row)
    _changed(tx.db)


def cancel(tx: Write, ids: Sequence[str]) -> list[str]:
    """End jobs that are not done; return which."""
    return [row.id for row in cancel_marks(tx, read_marks(tx.db, ids))]


def cancel_marks(tx: Write, rows: Iterable[Marked]) -> list[Marked]:
    ended = [row for row in rows if lifecycle.cancel(row.mark, tx.now)]
    write_marks(tx, ended)
    held = {row.type_id for row in ended if lifecycle.may_hold(row.before)}
    if held:
        tx.db.execute(_END_HOLDS, (to_json(list(held)),))
    return ended


def retry(tx: Write, ids: Sequence[str]) -> dict[str, int]:
    """Run jobs again; return the heads of their types."""
    return retry_marks(tx, read_marks(tx.db, ids))[1]


def retry_marks(tx: Write, rows: Iterable[Marked]) -> tuple[int, dict[str, int]]:
    moved = [row for row in rows if lifecycle.retry(row.mark, tx.now)]
    keep_last_runs(tx.db, [row for row in moved if row.before.lock == DONE])
    for row in moved:
        assert row.mark.lock == FREE, "a job that runs again waits"
        row.node = None
    return len(moved), write_marks(tx, moved)


def change_where(tx: Write, verb: str, where: JobFilter, limit: int) -> int:
    """Cancel or retry jobs that fit, kind by kind: each kind has its own index."""
    chosen = choose(tx, where)
    count = 0
    for kind, condition in _FITS[verb]:
        part = chosen.narrowed({kind}, condition)
        if count >= limit or not part.kinds or part.type_ids == []:
            continue
        rows = read_marks_where(tx.db, any_order(tx, part, limit - count), part.values)
        count += len(cancel_marks(tx, rows)) if verb == "cancel" else retry_marks(tx, rows)[0]
    return count


def purge_type(tx: Write, type_: str, limit: int) -> int:
    """Cancel waiting jobs of a type, the next ones first."""
    type_id = tx.types.find(tx.db, type_)
    return len(cancel_marks(tx, read_marks_where(tx.db, WAITING_OF_TYPE, (type_id, limit))))


def _changed(db: apsw.Connection) -> None:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'control_version'")
