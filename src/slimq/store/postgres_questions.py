"""What may be asked of a PostgreSQL store. Lists read one snapshot, and are cut off in time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from slimq.core.lifecycle import DONE, DONE_SHIFT_MS
from slimq.core.limits import RUNS_MAX
from slimq.store.base import JobFilter, JobView, KeyUse, Load, Node, Totals, TypeView
from slimq.store.idempotency import Alias, in_window
from slimq.store.postgres_tx import Tx
from slimq.store.postgres_where import choose, type_condition
from slimq.store.rows import job_of, run_of, type_of

_LAST = "(SELECT {0} FROM slimq.run WHERE run.seq = j.seq ORDER BY attempt DESC LIMIT 1)"
_NAME = "(SELECT name FROM slimq.type WHERE type.type_id = j.type_id)"
_LIVE = f"""
SELECT j.seq, j.id, {_NAME}, j.dt, j.lock, j.attempt, j.failures, j.crashes, j.status, j.due_at,
  j.parent, j.trace, {_LAST.format("error")}, {_LAST.format("result")}
"""
_DONE = f"""
SELECT j.seq, j.id, {_NAME}, j.ended_at + {DONE_SHIFT_MS}, '{DONE}', j.attempt, j.failures,
  j.crashes, j.status, j.due_at, j.parent, j.trace,
  CASE WHEN j.node IS NULL THEN {_LAST.format("error")} ELSE j.error END,
  CASE WHEN j.node IS NULL THEN {_LAST.format("result")} ELSE j.result END
"""
_ONE = f"""
{_LIVE}, j.data FROM slimq.job AS j WHERE j.id = %(id)s
UNION ALL {_DONE}, j.data FROM slimq.done AS j WHERE j.id = %(id)s
"""
_TAIL = "(SELECT tail FROM slimq.output WHERE output.output_id = r.output_id)"
_RUNS = f"""
SELECT attempt, status, node, started_at, ended_at, result, error, {_TAIL}
FROM slimq.run AS r WHERE seq = %(seq)s::bigint AND attempt > %(after)s::int
UNION ALL
SELECT attempt, status, node, started_at, ended_at, result, error, {_TAIL}
FROM slimq.done AS r WHERE id = %(id)s AND node IS NOT NULL
ORDER BY 1
"""  # noqa: S608
_ALIAS = """
SELECT first, count, owner FROM slimq.alias WHERE sysid = %s AND first <= %s
ORDER BY first DESC LIMIT 1
"""
_TYPE = """
SELECT t.name, c.waiting, c.running, c.ok, c.failed, c.error,
  (SELECT dt FROM slimq.job WHERE job.type_id = t.type_id AND lock = '' ORDER BY dt LIMIT 1),
  t.hold_until
FROM slimq.type AS t CROSS JOIN LATERAL (
  SELECT coalesce(sum(waiting), 0)::bigint AS waiting, coalesce(sum(running), 0)::bigint AS running,
    coalesce(sum(ok), 0)::bigint AS ok, coalesce(sum(failed), 0)::bigint AS failed,
    coalesce(sum(error), 0)::bigint AS error
  FROM slimq.type_count AS c WHERE c.type_id = t.type_id) AS c
"""
_LOAD = """
SELECT count(*), min(dt) FROM (
  SELECT dt FROM slimq.job
  WHERE type_id = (SELECT type_id FROM slimq.type WHERE name = %s) AND lock = ''
    AND dt <= slimq.now_ms() ORDER BY dt, seq LIMIT %s::int) AS ready
"""
_TOTALS = """
SELECT coalesce(sum(waiting), 0)::bigint, coalesce(sum(running), 0)::bigint,
  coalesce(sum(ok), 0)::bigint, coalesce(sum(failed), 0)::bigint,
  coalesce(sum(error), 0)::bigint, coalesce(sum(bytes), 0)::bigint,
  (SELECT count(*) FROM slimq.type), (SELECT value FROM slimq.meta WHERE name = 'purged')
FROM slimq.type_count
"""
_KEY = """
SELECT i.first, i.count, i.digest, slimq.now_ms() FROM slimq.idempotency AS i
JOIN slimq.type AS t USING (type_id) WHERE t.name = %s AND i.key = %s
"""
_UNKNOWN = """
SELECT a.id FROM unnest(%s::text[]) AS a(id)
WHERE NOT EXISTS (SELECT FROM slimq.job WHERE job.id = a.id)
  AND NOT EXISTS (SELECT FROM slimq.done WHERE done.id = a.id)
"""


def job(tx: Tx, id_: str) -> JobView | None:
    row = tx.one(_ONE, {"id": id_})
    if row is None:
        owner = resolve(tx, id_)
        row = None if owner is None else tx.one(_ONE, {"id": owner})
    if row is None:
        return None
    view = job_of(row[1:])
    asked = {"id": view.id, "seq": row[0], "after": view.attempt - RUNS_MAX}
    view.runs = [run_of(run) for run in tx.all(_RUNS, asked)]
    return view


def resolve(tx: Tx, id_: str) -> str | None:
    """Return the id that the id of a replayed request stands for."""
    found = tx.one(_ALIAS, (id_[8:16], id_))
    return None if found is None else Alias(*found).resolve(id_)


def resolve_all(tx: Tx, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return ids, and for each the id of its job."""
    unknown = {id_ for (id_,) in tx.all(_UNKNOWN, (list(ids),))}
    return [(id_, resolve(tx, id_) or id_ if id_ in unknown else id_) for id_ in ids]


def jobs(tx: Tx, where: JobFilter, before: str, limit: int) -> list[JobView]:
    chosen = choose(tx, where, before)
    newest = "ORDER BY j.id DESC LIMIT %(limit)s::int"
    parts = []
    if chosen.live is not None:
        parts.append(f"({_LIVE} FROM slimq.job AS j WHERE {chosen.live} {newest})")
    if chosen.done is not None:
        parts.append(f"({_DONE} FROM slimq.done AS j WHERE {chosen.done} {newest})")
    if not parts or limit < 1:
        return []
    both = " UNION ALL ".join(parts)
    query = f"SELECT * FROM ({both}) AS j {newest}"  # noqa: S608 -- our own text
    return [job_of((*row[1:], None)) for row in tx.all(query, {**chosen.values, "limit": limit})]


def type_(tx: Tx, name: str) -> TypeView | None:
    row = tx.one(f"{_TYPE} WHERE t.name = %s", (name,))
    return None if row is None else type_of(row)


def load(tx: Tx, name: str, most: int) -> Load:
    return Load(*tx.one(_LOAD, (name, most)))


def types(
    tx: Tx, client: str | None, jobtype: str | None, after: str, limit: int
) -> list[TypeView]:
    condition, values = type_condition(client, jobtype)
    query = f"{_TYPE} WHERE {condition} AND t.name > %s ORDER BY t.name LIMIT %s::int"
    return [type_of(row) for row in tx.all(query, (*values, after, limit))]


def totals(tx: Tx) -> Totals:
    waiting, running, ok, failed, error, bytes_, count, purged = tx.one(_TOTALS)
    return Totals(
        waiting=waiting,
        running=running,
        ok=ok,
        failed=failed,
        error=error,
        purged=purged,
        bytes=bytes_,
        types=count,
    )


def nodes(tx: Tx) -> list[Node]:
    rows = tx.all("SELECT sysid, started_at, seen_at, about FROM slimq.node ORDER BY sysid")
    decode = msgspec.json.decode
    return [Node(sysid, started, seen, decode(about)) for sysid, started, seen, about in rows]


def key_use(tx: Tx, type_name: str, key: str) -> KeyUse | None:
    row = tx.one(_KEY, (type_name, key))
    if row is None:
        return None
    use = KeyUse(*row[:3])
    return use if in_window(use, row[3]) else None
