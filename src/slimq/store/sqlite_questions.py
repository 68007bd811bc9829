"""What may be asked of a SQLite store. Lists read one snapshot, and are cut off in time."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from slimq.core.lifecycle import DONE_SHIFT_MS
from slimq.core.limits import RUNS_MAX
from slimq.store.base import JobFilter, JobView, KeyUse, Load, Node, Totals, TypeView
from slimq.store.idempotency import Alias, in_window
from slimq.store.rows import job_of, run_of, type_of
from slimq.store.sqlite_claim import DATA
from slimq.store.sqlite_file import Read, Write
from slimq.store.sqlite_tend import size_of
from slimq.store.sqlite_types import from_json, to_json
from slimq.store.sqlite_where import choose, newest_first, type_condition

_LAST = "(SELECT {0} FROM run WHERE run.seq = job.seq ORDER BY attempt DESC LIMIT 1)"
_SHOWN = ", ".join(
    [
        "id, (SELECT name FROM type WHERE type.type_id = job.type_id), dt, lock, attempt",
        "failures, crashes, status, due_at, parent, trace",
        f"CASE WHEN node IS NULL THEN {_LAST.format('error')} ELSE error END",
        f"CASE WHEN node IS NULL THEN {_LAST.format('result')} ELSE result END",
    ]
)
_LIST = f"SELECT {_SHOWN}, NULL FROM job WHERE seq = ?"  # noqa: S608
_ONE = f"SELECT {_SHOWN}, {DATA} FROM job WHERE id = ?"  # noqa: S608
_RUNS = """
SELECT attempt, status, node, started_at, ended_at, result, error,
  (SELECT tail FROM output WHERE output.output_id = run.output_id)
FROM run WHERE seq = (SELECT seq FROM job WHERE id = ?1) AND attempt > ?2 ORDER BY attempt
"""
_LAST_RUN = """
SELECT attempt, status, node, started_at, dt - ?2, result, error,
  (SELECT tail FROM output WHERE output.output_id = job.output_id)
FROM job WHERE id = ?1 AND lock = '__done' AND node IS NOT NULL
"""
_ALIAS = """
SELECT first, count, owner FROM alias WHERE sysid = ? AND first <= ? ORDER BY first DESC LIMIT 1
"""
_UNKNOWN = """
SELECT json_group_array(value) FROM json_each(?)
WHERE NOT EXISTS (SELECT 1 FROM job WHERE id = value)
"""
_TYPE = "SELECT name, waiting, running, ok, failed, error, next_dt, hold_until FROM type"
_LOAD = """
SELECT count(*), min(dt) FROM (
  SELECT dt FROM job WHERE type_id = (SELECT type_id FROM type WHERE name = ?) AND lock = ''
    AND dt <= ? ORDER BY dt LIMIT ?)
"""
_TOTALS = """
SELECT total(waiting), total(running), total(ok), total(failed), total(error), count(*) FROM type
"""
_KEY = """
SELECT first, count, digest FROM idempotency
WHERE type_id = (SELECT type_id FROM type WHERE name = ?) AND key = ?
"""


def job(tx: Read, id_: str) -> JobView | None:
    row = tx.db.execute(_ONE, (id_,)).get
    if row is None:
        owner = resolve(tx.db, id_)
        row = None if owner is None else tx.db.execute(_ONE, (owner,)).get
    if row is None:
        return None
    view = job_of(row)
    runs = tx.db.execute(_RUNS, (view.id, view.attempt - RUNS_MAX)).fetchall()
    runs += tx.db.execute(_LAST_RUN, (view.id, DONE_SHIFT_MS)).fetchall()
    view.runs = [run_of(run) for run in runs]
    return view


def resolve(db: apsw.Connection, id_: str) -> str | None:
    """Return the id that the id of a replayed request stands for."""
    found = db.execute(_ALIAS, (id_[8:16], id_)).get
    return None if found is None else Alias(*found).resolve(id_)


def resolve_all(tx: Write, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return ids, and for each the id of its job."""
    unknown = set(from_json(tx.db.execute(_UNKNOWN, (to_json(list(ids)),)).get))
    return [(id_, resolve(tx.db, id_) or id_ if id_ in unknown else id_) for id_ in ids]


def jobs(tx: Read, where: JobFilter, before: str, limit: int) -> list[JobView]:
    seqs = newest_first(tx, choose(tx, where, before), limit)
    return [job_of(tx.db.execute(_LIST, (seq,)).get) for seq in seqs]


def type_(tx: Read, name: str) -> TypeView | None:
    row = tx.db.execute(f"{_TYPE} WHERE name = ?", (name,)).get
    return None if row is None else type_of(row)


def load(tx: Read, name: str, most: int, now: int) -> Load:
    return Load(*tx.db.execute(_LOAD, (name, now, most)).get)


def types(
    tx: Read, client: str | None, jobtype: str | None, after: str, limit: int
) -> list[TypeView]:
    condition, values = type_condition(client, jobtype)
    query = f"{_TYPE} WHERE {condition} AND name > ? ORDER BY name LIMIT ?"
    return [type_of(row) for row in tx.db.execute(query, (*values, after, limit))]


def totals(tx: Read) -> Totals:
    waiting, running, ok, failed, error, count = map(int, tx.db.execute(_TOTALS).get)
    return Totals(
        waiting=waiting,
        running=running,
        ok=ok,
        failed=failed,
        error=error,
        purged=int(tx.db.execute("SELECT value FROM meta WHERE name = 'purged'").get),
        bytes=size_of(tx.db),
        types=count,
    )


def nodes(tx: Read) -> list[Node]:
    rows = tx.db.execute("SELECT sysid, started_at, seen_at, about FROM node ORDER BY sysid")
    decode = msgspec.json.decode
    return [Node(sysid, started, seen, decode(about)) for sysid, started, seen, about in rows]


def key_use(tx: Read, type_name: str, key: str) -> KeyUse | None:
    row = tx.db.execute(_KEY, (type_name, key)).get
    if row is None:
        return None
    use = KeyUse(*row)
    return use if in_window(use, tx.now) else None
