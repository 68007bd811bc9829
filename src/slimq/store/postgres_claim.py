"""Jobs are leased from a PostgreSQL store, and leases kept or given back.

A claim is one statement. It locks what it takes and passes over what others have locked
(SKIP LOCKED); the CTE that chooses is MATERIALIZED, or the planner might run it again for
every row and take more than `limit`. The windows over it go by its order. The clock is read
once, not for each row: 10 % of the claim. What was taken comes in any order, with the order
beside it: a join of the two would be a loop in a loop, should the planner think them few.

Its commit does not wait for the disk: a lease that a crash of the server takes back is a
job that waits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimq.core import lifecycle
from slimq.core.job import Job
from slimq.core.lifecycle import DONE, FREE, Lease
from slimq.store.base import ORDERED_POLL_MS, Claim, DueType
from slimq.store.postgres_floor import START, Floors, Place
from slimq.store.postgres_marks import read_held, write_marks
from slimq.store.postgres_tx import Tx

LOOK_AGAIN_MS = 1_000  # at a type that has just run empty: what others add may not be visible
LOCKED_MS = 100  # after this at jobs that another transaction has locked
LAZY = "SELECT set_config('synchronous_commit', 'off', true)"  # for this transaction

_HINTED = """
SELECT slimq.now_ms(), m.value, t.type_id, t.name, t.hold_until
FROM slimq.meta AS m LEFT JOIN LATERAL (
  SELECT type_id, name, hold_until FROM slimq.type
  WHERE next_dt <= %(until)s::bigint AND hold_until <= %(until)s::bigint AND name > %(after)s
  ORDER BY name LIMIT %(limit)s::int) AS t ON true
WHERE m.name = 'control_version'
"""
_FIRST = """
WITH asked AS MATERIALIZED (
  SELECT a.type_id, n.dt
  FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS a(type_id, floor_dt, floor_seq)
  LEFT JOIN LATERAL (
    SELECT dt FROM slimq.job WHERE job.type_id = a.type_id AND lock = ''
      AND (dt, seq) >= (a.floor_dt, a.floor_seq)
    ORDER BY dt, seq LIMIT 1) AS n ON true),
hinted AS (
  UPDATE slimq.type SET next_dt = asked.dt FROM asked
  WHERE type.type_id = asked.type_id AND (asked.dt IS NULL OR asked.dt > %s::bigint)
    AND type.next_dt <= slimq.now_ms())
SELECT type_id, dt FROM asked
"""
# A loose index scan: one step for each type that has waiting jobs, whatever their number.
_SWEEP = """
WITH RECURSIVE w AS (
  (SELECT type_id, dt FROM slimq.job WHERE lock = '' ORDER BY type_id, dt LIMIT 1)
  UNION ALL
  SELECT n.type_id, n.dt FROM w CROSS JOIN LATERAL (
    SELECT type_id, dt FROM slimq.job WHERE lock = '' AND type_id > w.type_id
    ORDER BY type_id, dt LIMIT 1) AS n)
UPDATE slimq.type SET next_dt = w.dt FROM w
WHERE type.type_id = w.type_id AND (type.next_dt IS NULL OR type.next_dt > w.dt)
"""
_CLAIM = f"""
WITH clock AS MATERIALIZED (SELECT slimq.now_ms() AS now, ({LAZY})),
found AS MATERIALIZED (
  SELECT ctid AS place, seq, dt, octet_length(data) AS size FROM slimq.job
  WHERE type_id = %(type_id)s::int AND lock = '' AND dt <= (SELECT now FROM clock)
    AND (dt, seq) >= (%(floor_dt)s::bigint, %(floor_seq)s::bigint)
  ORDER BY dt, seq LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED),
fits AS MATERIALIZED (
  SELECT * FROM (
    SELECT *, sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS total, row_number() OVER () AS n
    FROM found) AS s
  WHERE total <= %(bytes_max)s::bigint OR n = 1),
wait AS MATERIALIZED (
  SELECT min(dt) + %(window_ms)s::bigint AS over_at FROM found
  HAVING count(*) < least(%(full)s::int, %(limit)s::int)
    AND count(*) = (SELECT count(*) FROM fits)
    AND min(dt) + %(window_ms)s::bigint > (SELECT now FROM clock)),
took AS (
  UPDATE slimq.job SET lock = %(lock)s, dt = (SELECT now FROM clock) + %(lease_ms)s::bigint,
    attempt = attempt + 1, started_at = (SELECT now FROM clock)
  WHERE ctid = ANY(ARRAY(SELECT place FROM fits WHERE NOT EXISTS (SELECT FROM wait)))
  RETURNING seq, id, attempt, failures, crashes, due_at, data, trace),
last AS MATERIALIZED (
  SELECT dt, seq FROM fits WHERE NOT EXISTS (SELECT FROM wait)
  UNION ALL SELECT %(floor_dt)s::bigint, %(floor_seq)s::bigint - 1
  ORDER BY dt DESC, seq DESC LIMIT 1),
next AS MATERIALIZED (
  SELECT CASE WHEN EXISTS (SELECT FROM wait) THEN (SELECT over_at FROM wait)
    WHEN EXISTS (SELECT FROM fits) OR n.dt > (SELECT now FROM clock) THEN n.dt
    WHEN n.dt IS NOT NULL THEN (SELECT now FROM clock) + {LOCKED_MS} END AS at
  FROM (SELECT) AS one LEFT JOIN LATERAL (
    SELECT dt FROM slimq.job WHERE type_id = %(type_id)s::int AND lock = ''
      AND (dt, seq) > ((SELECT dt FROM last), (SELECT seq FROM last))
    ORDER BY dt, seq LIMIT 1) AS n ON true),
counted AS (
  INSERT INTO slimq.type_count AS t (type_id, shard, waiting, running)
  SELECT %(type_id)s::int, %(shard)s::smallint, -n, n FROM (SELECT count(*) AS n FROM took) AS c
  WHERE n > 0
  ON CONFLICT (type_id, shard) DO UPDATE SET
    waiting = t.waiting + excluded.waiting, running = t.running + excluded.running),
hinted AS (
  UPDATE slimq.type SET next_dt = CASE WHEN EXISTS (SELECT FROM took)
    THEN least(next.at, (SELECT now FROM clock) + {LOOK_AGAIN_MS}) ELSE next.at END
  FROM next
  WHERE type_id = %(type_id)s::int AND NOT EXISTS (SELECT FROM wait)
    AND (next.at IS NULL OR next.at > (SELECT now FROM clock))
    AND next_dt IS NOT NULL AND (next_dt <= (SELECT now FROM clock) OR next.at IS NULL))
SELECT at, (SELECT now FROM clock), dt, seq, ARRAY(SELECT seq FROM fits), NULL::bigint, NULL::text,
  NULL::int, NULL::int, NULL::int, NULL::bigint, NULL::bytea, NULL::text
FROM next CROSS JOIN last
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, seq, id, attempt, failures, crashes, due_at, data,
  trace FROM took
"""  # noqa: S608
_HELD_UNTIL = "SELECT hold_until FROM slimq.type WHERE type_id = %s::int FOR UPDATE"
_RUNNING = """
SELECT slimq.now_ms(), coalesce(sum(running), 0)::bigint
FROM slimq.type_count WHERE type_id = %s::int
"""
_RENEW = f"""
WITH lazy AS MATERIALIZED ({LAZY}),
kept AS (
  UPDATE slimq.job SET dt = greatest(dt, slimq.now_ms() + %s::bigint)
  FROM unnest(%s::text[], %s::int[]) AS m(id, attempt)
  WHERE job.id = m.id AND job.attempt = m.attempt AND job.lock = %s
  RETURNING job.id)
SELECT id FROM kept CROSS JOIN lazy
"""  # noqa: S608


class Wanted(NamedTuple):
    """What a claim asks for; see `EngineStore.claim`."""

    limit: int
    lease_ms: int
    bytes_max: int
    full: int
    window_ms: int
    ordered: bool


class _Hinted(NamedTuple):
    """A type that says it is due."""

    type_id: int
    name: str
    hold_until: int


class Due(NamedTuple):
    types: list[DueType]
    now: int
    control_version: int


def due(tx: Tx, until: int, after: str, limit: int, floors: Floors) -> Due:
    """What the types say of themselves is compared with their first jobs, and put right."""
    found: list[DueType] = []
    while True:
        rows = tx.all(_HINTED, {"until": until, "after": after, "limit": limit})
        now, control_version = rows[0][:2]
        hinted = [_Hinted(*row[2:]) for row in rows if row[2] is not None]
        found += _compared(tx, hinted, until, floors, now)
        if len(hinted) < limit or len(found) >= limit:
            return Due(found[:limit], now, control_version)
        after = hinted[-1].name


def _compared(tx: Tx, hinted: list[_Hinted], until: int, floors: Floors, now: int) -> list[DueType]:
    if not hinted:
        return []
    asked = [type_.type_id for type_ in hinted]
    places = [floors.get(type_id, now) for type_id in asked]
    columns = [place.dt for place in places], [place.seq for place in places]
    first: dict[int, int | None] = dict(tx.all(_FIRST, (asked, *columns, until)))
    return [
        DueType(name, max(dt, hold_until))
        for type_id, name, hold_until in hinted
        if (dt := first[type_id]) is not None and dt <= until
    ]


def sweep(tx: Tx) -> None:
    """Compare when types are due with their jobs. What one node adds while another finds
    nothing and says so would be forgotten otherwise."""
    tx.do(_SWEEP)


def claim(
    tx: Tx, type_id: int, lock: str, wanted: Wanted, floors: Floors, now: int, shard: int
) -> tuple[Claim, int]:
    """Return what was claimed, and the time of the server."""
    floor = floors.get(type_id, now)
    rows = tx.all(
        _CLAIM,
        {
            "type_id": type_id,
            "lock": lock,
            "limit": wanted.limit,
            "lease_ms": wanted.lease_ms,
            "bytes_max": wanted.bytes_max,
            "full": wanted.full,
            "window_ms": wanted.window_ms,
            "floor_dt": floor.dt,
            "floor_seq": floor.seq,
            "shard": shard,
        },
    )
    next_at, now, dt, seq, line, *_ = rows[0]
    del rows[0]
    if not rows:
        return Claim([], next_at), now
    floors.took(type_id, floor, Place(dt, seq), now)
    place_of = {seq: place for place, seq in enumerate(line)}
    rows.sort(key=lambda row: place_of[row[5]])
    return Claim([_job(*row[6:]) for row in rows], next_at), now


def _job(
    id_: str,
    attempt: int,
    failures: int,
    crashes: int,
    due_at: int,
    data: bytes,
    trace: str | None,
) -> Job:
    return Job(id_, attempt, failures, crashes, due_at, data, trace or "")


def held_until(tx: Tx, type_id: int) -> tuple[int, int]:
    """Return until when an ordered type waits, for its running job or its hold, and the time
    of the server. The type is locked to the end of the transaction."""
    (hold_until,) = tx.one(_HELD_UNTIL, (type_id,))
    now, running = tx.one(_RUNNING, (type_id,))
    return max(int(hold_until), now + ORDERED_POLL_MS if running else 0), now


def renew(tx: Tx, lock: str, leases: Sequence[Lease], lease_ms: int) -> set[str]:
    ids, attempts = [lease.id for lease in leases], [lease.attempt for lease in leases]
    if lock in (FREE, DONE):
        return set(ids)
    kept = {id_ for (id_,) in tx.all(_RENEW, (lease_ms, ids, attempts, lock))}
    return {id_ for id_ in ids if id_ not in kept}


def release(tx: Tx, lock: str, leases: Sequence[Lease], shard: int) -> tuple[int, dict[int, int]]:
    rows = [] if lock == FREE else read_held(tx, lock, leases)
    for row in rows:
        lifecycle.release(row.mark)
    return len(rows), write_marks(tx, rows, shard)


def leases(tx: Tx, lock: str) -> set[Lease]:
    query = "SELECT id, attempt FROM slimq.job WHERE lock <> '' AND lock = %s"
    return {Lease(*row) for row in tx.all(query, (lock,))}


assert START == (0, 0), "what no place in line is before"
