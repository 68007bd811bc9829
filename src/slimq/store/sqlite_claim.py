"""Jobs are leased from a SQLite store, and leases kept or given back.

Like ingest, each step is a handful of statements whatever the number of jobs: what is
read comes as one row of JSON arrays and one blob. See `sqlite_ingest` for why.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import apsw

from slimq.core import lifecycle
from slimq.core.job import Job
from slimq.core.jobid import ID_LENGTH
from slimq.core.lifecycle import DONE, FREE, Lease
from slimq.store.base import ORDERED_POLL_MS, Claim, DueType
from slimq.store.counts import RUNNING, WAITING
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_marks import read_marks, write_marks
from slimq.store.sqlite_types import Tally, from_json, to_json

DATA = "coalesce(data, (SELECT data FROM large WHERE large.seq = job.seq))"
DUE_FEW = """
SELECT name, next_dt, hold_until FROM type INDEXED BY type_by_next WHERE next_dt <= ? LIMIT ?
"""
DUE_MANY = """
SELECT name, max(next_dt, hold_until) FROM type INDEXED BY type_waiting
WHERE next_dt IS NOT NULL AND name > ?2 AND next_dt <= ?1 AND hold_until <= ?1
ORDER BY name LIMIT ?3
"""
_CANDIDATES = """
SELECT json_group_array(seq), json_group_array(size), min(dt) FROM (
  SELECT seq, dt,
    coalesce(length(data), (SELECT length(data) FROM large WHERE large.seq = job.seq)) AS size
  FROM job INDEXED BY job_waiting
  WHERE type_id = ? AND lock = '' AND dt <= ? ORDER BY dt, seq LIMIT ?)
"""
_CLAIM = "UPDATE job SET lock = ?, dt = ?, attempt = attempt + 1, started_at = ? WHERE"
_CLAIMED = f"""
SELECT json_group_array(seq), group_concat(id, ''), json_group_array(attempt),
  json_group_array(failures), json_group_array(crashes), json_group_array(due_at),
  json_group_array(coalesce(trace, '')), json_group_array(length(data)),
  CAST(group_concat(data, '') AS BLOB)
FROM (SELECT seq, id, attempt, failures, crashes, due_at, trace, {DATA} AS data
  FROM job WHERE %s)
"""  # noqa: S608
_NEXT = """
SELECT dt FROM job INDEXED BY job_waiting WHERE type_id = ? AND lock = '' ORDER BY dt LIMIT 1
"""
_RENEW = """
UPDATE job INDEXED BY job_by_id SET dt = max(dt, ?1) FROM json_each(?2) AS m
WHERE job.id = m.value->>0 AND job.lock = ?3 AND job.attempt = m.value->>1
  AND ?3 NOT IN ('', '__done')
"""
HELD = """
SELECT json_group_array(m.key)
FROM json_each(?1) AS m CROSS JOIN job INDEXED BY job_by_id ON job.id = m.value->>0
WHERE job.lock = ?2 AND job.attempt = m.value->>1 AND ?2 NOT IN ('', '__done')
"""


class Wanted(NamedTuple):
    """What a claim asks for; see `EngineStore.claim`."""

    limit: int
    lease_ms: int
    bytes_max: int
    full: int
    window_ms: int
    ordered: bool


def due(db: apsw.Connection, until: int, after: str, limit: int) -> list[DueType]:
    """When few types are due, find them by time; when many are, walk them by name. So
    neither types that wait for later nor the other pages cost much."""
    few: Any = db.execute(DUE_FEW, (until, 2 * limit + 1)).fetchall()
    if len(few) > 2 * limit:
        many: Any = db.execute(DUE_MANY, (until, after, limit))
        return [DueType(*row) for row in many]
    found = [DueType(name, max(next_dt, hold)) for name, next_dt, hold in few if name > after]
    return sorted(due for due in found if due.next_at <= until)[:limit]


def claim(tx: Write, type_: str, lock: str, wanted: Wanted) -> Claim:
    type_id = tx.types.find(tx.db, type_)
    if type_id is None or wanted.limit < 1:
        return Claim([], None)
    if wanted.ordered:
        held = _held_until(tx, type_id)
        if held > tx.now:
            return Claim([], held)
    limit = 1 if wanted.ordered else wanted.limit
    found, sizes, oldest = tx.db.execute(_CANDIDATES, (type_id, tx.now, limit)).get
    seqs, ready_at = _take(tx.now, from_json(found), from_json(sizes), oldest, limit, wanted)
    if ready_at is not None:
        return Claim([], ready_at)
    jobs = _lease(tx, type_id, lock, seqs, wanted.lease_ms) if seqs else []
    return Claim(jobs, tx.db.execute(_NEXT, (type_id,)).get)


def _held_until(tx: Write, type_id: int) -> int:
    """An ordered type waits for its running job, or until its hold is over."""
    hold_until, running = tx.db.execute(
        "SELECT hold_until, running FROM type WHERE type_id = ?", (type_id,)
    ).get
    return max(int(hold_until), tx.now + ORDERED_POLL_MS if running else 0)


def _take(
    now: int, seqs: list[int], sizes: list[int], oldest: int | None, limit: int, wanted: Wanted
) -> tuple[list[int], int | None]:
    """Return what fits in `bytes_max`, or when the window of an incomplete batch is over."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > wanted.bytes_max and count:
            return seqs[:count], None
    if oldest is not None and len(seqs) < min(wanted.full, limit):
        over_at = oldest + wanted.window_ms
        return ([], over_at) if over_at > now else (seqs, None)
    return seqs, None


def _lease(tx: Write, type_id: int, lock: str, seqs: list[int], lease_ms: int) -> list[Job]:
    where, numbers = _these(seqs)
    tx.db.execute(f"{_CLAIM} {where}", (lock, tx.now + lease_ms, tx.now, *numbers))
    tally = Tally()
    tally.add(type_id, WAITING, -len(seqs))
    tally.add(type_id, RUNNING, len(seqs))
    tally.took(type_id)
    tally.apply(tx.db)
    row = tx.db.execute(_CLAIMED % where, numbers).get
    by_seq = dict(zip(from_json(row[0]), _jobs(*row[1:]), strict=True))
    return [by_seq[seq] for seq in seqs]


def _these(seqs: list[int]) -> tuple[str, tuple[Any, ...]]:
    """Return a condition on `seq`, and its values. What came together is mostly claimed together,
    and a range is walked: measured, a sixth less to claim."""
    first, last = min(seqs), max(seqs)
    if last - first + 1 == len(seqs):
        return "seq BETWEEN ? AND ?", (first, last)
    return "seq IN carray(?)", (apsw.carray(array("q", seqs)),)


def _jobs(ids: str, *columns: str | bytes) -> list[Job]:
    """Return the jobs of columns."""
    *numbers, traces, sizes, data = columns
    assert isinstance(data, bytes), "the last column is the data"
    names = [ids[start : start + ID_LENGTH] for start in range(0, len(ids), ID_LENGTH)]
    ends = list(accumulate(from_json(sizes)))
    parts = [data[start:end] for start, end in zip((0, *ends), ends, strict=False)]
    return list(map(Job, names, *map(from_json, numbers), parts, from_json(traces)))


def renew(tx: Write, lock: str, leases: Sequence[Lease], lease_ms: int) -> set[str]:
    asked = to_json(leases)
    tx.db.execute(_RENEW, (tx.now + lease_ms, asked, lock))
    if tx.db.changes() == len(leases):
        return set()
    held = set(from_json(tx.db.execute(HELD, (asked, lock)).get))
    return {lease.id for index, lease in enumerate(leases) if index not in held}


def release(tx: Write, lock: str, leases: Sequence[Lease]) -> int:
    held = from_json(tx.db.execute(HELD, (to_json(leases), lock)).get)
    rows = read_marks(tx.db, [leases[index].id for index in held])
    for row in rows:
        lifecycle.release(row.mark)
    write_marks(tx, rows)
    return len(rows)


def leases(db: apsw.Connection, lock: str) -> set[Lease]:
    query = "SELECT id, attempt FROM job WHERE lock <> '' AND lock <> '__done' AND lock = ?"
    return {Lease(*row) for row in db.execute(query, (lock,))}


assert (DONE, FREE) == ("__done", ""), "the statements spell them out"
