"""What the janitor does in a SQLite store: free what is abandoned, purge what is past."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import apsw

from slimq.core import lifecycle
from slimq.core.jobid import block_from
from slimq.core.lifecycle import DONE, FREE, done_dt
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS, PURGE_JOBS_MAX
from slimq.store.base import ABANDONED_TEXT, NODES_KEPT_MS, Freed
from slimq.store.counts import FAILED, OK, kind_of
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_marks import (
    add_abandoned_runs,
    drop_outputs,
    read_marks_where,
    write_marks,
)
from slimq.store.sqlite_types import Tally, from_json, to_json

ROW_BYTES = 200  # about what a job takes beside its data, with its places in indexes

_ABANDONED = """
INDEXED BY job_running WHERE lock <> '' AND lock <> '__done' AND dt <= ? ORDER BY dt LIMIT ?
"""
_OF_NODE = """
INDEXED BY job_running WHERE lock <> '' AND lock <> '__done' AND lock = ? LIMIT ?
"""
_ORPHANED = "NOT EXISTS (SELECT 1 FROM job AS p WHERE p.id = job.parent AND p.lock <> '__done')"
_OF_KIND = {OK: "status < 300", FAILED: "status >= 300"}
_INDEX = {OK: "job_done_ok", FAILED: "job_done_bad"}

_OLD_ALIASES = """
SELECT json_group_array(json_array(sysid, first, owner, count))
FROM (SELECT * FROM alias WHERE ingested_at < ? LIMIT ?)
"""
_KEEP_ALIASES = """
UPDATE alias SET ingested_at = ?1 FROM json_each(?2) AS m
WHERE sysid = m.value->>0 AND first = m.value->>1
  AND EXISTS (SELECT 1 FROM job WHERE id BETWEEN m.value->>2 AND m.value->>3)
"""
_DELETE_ALIASES = """
DELETE FROM alias WHERE ingested_at < ?1
  AND (sysid, first) IN (SELECT value->>0, value->>1 FROM json_each(?2))
"""


class Keep(NamedTuple):
    """What a purge spares; see `EngineStore.purge`."""

    ok_before: int
    failed_before: int
    bytes_max: int


class _Past(NamedTuple):
    seq: int
    type_id: int
    status: int
    output_id: int | None
    size: int


def free(tx: Write, limit: int, lock: str | None) -> Freed:
    if lock is None:
        rows = read_marks_where(tx.db, _ABANDONED, (tx.now, limit))
    else:
        rows = read_marks_where(tx.db, _OF_NODE, (lock, limit))
    for row in rows:
        lifecycle.free(row.mark, tx.now)
        row.error = ABANDONED_TEXT
    again = [row for row in rows if row.mark.lock == FREE]
    add_abandoned_runs(tx.db, again, tx.now)
    for row in again:
        row.error = None
    for row in rows:
        row.node = row.before.lock if row.mark.lock == DONE else None
    heads = write_marks(tx, rows)
    return Freed(len(again), len(rows) - len(again), heads)


def size_of(db: apsw.Connection) -> int:
    """Return the bytes that the store uses of its file."""
    pages = int(db.pragma("page_count")) - int(db.pragma("freelist_count"))
    return pages * int(db.pragma("page_size"))


def purge(tx: Write, keep: Keep, limit: int) -> int:
    count = 0
    for kind, before in ((OK, keep.ok_before), (FAILED, keep.failed_before)):
        count += _delete(tx, _past(tx.db, kind, done_dt(before), limit - count))
    for kind in (OK, FAILED):
        while count < limit and (excess := size_of(tx.db) - keep.bytes_max) > 0:
            chosen = _until(_past(tx.db, kind, done_dt(tx.now) + 1, limit - count), excess)
            if not chosen:
                break
            count += _delete(tx, chosen)
    if count:
        tx.db.execute("UPDATE meta SET value = value + ? WHERE name = 'purged'", (count,))
    _forget(tx, keep)  # at last: an alias goes with its job
    return count


def _forget(tx: Write, keep: Keep) -> None:
    window = tx.now - IDEMPOTENCY_WINDOW_MS
    tx.db.execute("DELETE FROM idempotency WHERE ingested_at < ?", (window,))
    _forget_aliases(tx, min(keep.ok_before, keep.failed_before, window))
    shown = tx.now - NODES_KEPT_MS
    tx.db.execute("DELETE FROM node WHERE seen_at < ?", (shown,))
    tx.db.execute("DELETE FROM permit WHERE dt <= ?", (tx.now,))


def _forget_aliases(tx: Write, oldest: int) -> None:
    """Forget aliases of jobs that are gone. A job may wait for longer than done ones are
    kept: then its aliases are looked at again after as long a time."""
    found = from_json(tx.db.execute(_OLD_ALIASES, (oldest, PURGE_JOBS_MAX)).get)
    if found:
        blocks = [(*name, owner, block_from(owner, count).last) for *name, owner, count in found]
        asked = to_json(blocks)
        tx.db.execute(_KEEP_ALIASES, (tx.now, asked))
        tx.db.execute(_DELETE_ALIASES, (oldest, asked))


def _past(db: apsw.Connection, kind: int, before_dt: int, limit: int) -> list[_Past]:
    """Return done jobs, the longest finished first."""
    found = db.execute(past_query(kind), (before_dt, limit)).get
    return [_Past(*row) for row in from_json(found)]


def past_query(kind: int) -> str:
    return f"""
SELECT json_group_array(json_array(seq, type_id, status, output_id, size)) FROM (
  SELECT seq, type_id, status, output_id,
    coalesce(length(data), (SELECT length(data) FROM large WHERE large.seq = job.seq)) AS size
  FROM job INDEXED BY {_INDEX[kind]}
  WHERE lock = '__done' AND {_OF_KIND[kind]} AND dt < ? AND {_ORPHANED}
  ORDER BY dt LIMIT ?)
"""  # noqa: S608 -- our own text


def _until(jobs: list[_Past], excess: int) -> list[_Past]:
    """Return as many of the first jobs as together may take `excess` bytes."""
    total = 0
    for count, job in enumerate(jobs):
        if total >= excess:
            return jobs[:count]
        total += job.size + ROW_BYTES
    return jobs


def _delete(tx: Write, jobs: Sequence[_Past]) -> int:
    if not jobs:
        return 0
    seqs = apsw.carray(array("q", [job.seq for job in jobs]))
    query = "SELECT json_group_array(output_id) FROM run WHERE seq IN carray(?)"
    outputs = from_json(tx.db.execute(query, (seqs,)).get)
    for table in ("run", "large", "job"):
        tx.db.execute(f"DELETE FROM {table} WHERE seq IN carray(?)", (seqs,))  # noqa: S608
    drop_outputs(tx.db, outputs + [job.output_id for job in jobs])
    tally = Tally()
    for job in jobs:
        tally.add(job.type_id, kind_of(DONE, job.status), -1)
    tally.apply(tx.db)
    return len(jobs)
