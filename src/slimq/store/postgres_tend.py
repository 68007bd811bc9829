"""What the janitor does in a PostgreSQL store: free what is abandoned, purge what is past.

Done jobs lie in slots, by the day they ended on and whether they are OK. A slot that is
past as a whole is dropped, which leaves nothing to vacuum. Of the slot in which the border
lies, jobs are deleted one by one, unless it is large: then it waits until it is past.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import errors

from slimq.core import lifecycle
from slimq.core.jobid import block_from
from slimq.core.lifecycle import DONE, FREE
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS, PURGE_JOBS_MAX
from slimq.store.base import ABANDONED_TEXT, NODES_KEPT_MS, Freed
from slimq.store.counts import OK, kind_of
from slimq.store.postgres_link import PostgresLink
from slimq.store.postgres_marks import add_abandoned_runs, drop_outputs, read_live, write_marks
from slimq.store.postgres_tx import Tx
from slimq.store.postgres_types import BYTES, ROW_BYTES, Tally

DAY_MS = 86_400_000
SLOTS_AHEAD = 3  # days whose slots are made before they are needed
LARGE_SLOT = 100_000  # jobs; deleting so many one by one costs more than a day of their space
LOCK_MS = 500  # how long the change of a table's shape waits, and others behind it

_ABANDONED = """
WHERE lock <> '' AND dt <= slimq.now_ms() ORDER BY dt, lock, seq LIMIT %s::int
FOR UPDATE SKIP LOCKED
"""
_OF_NODE = (
    "WHERE lock <> '' AND lock = %s ORDER BY dt, lock, seq LIMIT %s::int FOR UPDATE SKIP LOCKED"
)
SLOTS = r"""
SELECT substring(c.relname FROM '^done_(\d+)$')::int, greatest(c.reltuples, 0)::bigint
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'slimq.done'::regclass AND c.relname ~ '^done_\d+$' ORDER BY 1
"""
_PAST = """
SELECT seq, id, type_id, status, output_id, octet_length(data), slot FROM slimq.done AS d
WHERE {0} AND NOT EXISTS (SELECT FROM slimq.job AS p WHERE p.id = d.parent)
ORDER BY ended_at, seq LIMIT %s::int FOR UPDATE SKIP LOCKED
"""
_OUTPUTS_OF = "DELETE FROM slimq.run WHERE seq = ANY(%s::bigint[]) RETURNING output_id"
_DELETE = "DELETE FROM slimq.done WHERE slot = ANY(%s::int[]) AND seq = ANY(%s::bigint[])"
_KEEP_ORPHANED = """
WITH kept AS (
  DELETE FROM {0} AS d WHERE EXISTS (SELECT FROM slimq.job AS p WHERE p.id = d.parent)
  RETURNING d.*)
INSERT INTO slimq.done SELECT * FROM kept
"""
_SUMS = """
SELECT type_id, status, count(*), sum(octet_length(data))::bigint FROM {0} GROUP BY 1, 2
"""
_OUTPUTS_IN = "SELECT output_id FROM {0} WHERE output_id IS NOT NULL"
_RUNS_OF = """
DELETE FROM slimq.run USING {0} AS d WHERE run.seq = d.seq RETURNING run.output_id
"""
MAKE_SLOT = "CREATE TABLE slimq.done_{0} PARTITION OF slimq.done FOR VALUES IN ({0})"
_BYTES = "SELECT coalesce(sum(bytes), 0)::bigint FROM slimq.type_count"


_OLD_ALIASES = """
SELECT sysid, first, owner, count FROM slimq.alias WHERE ingested_at < %s::bigint
LIMIT %s::int FOR UPDATE SKIP LOCKED
"""
_KEEP_ALIASES = """
UPDATE slimq.alias SET ingested_at = slimq.now_ms()
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS m(sysid, first, low, high)
WHERE alias.sysid = m.sysid AND alias.first = m.first AND (
  EXISTS (SELECT FROM slimq.job WHERE id BETWEEN m.low AND m.high)
  OR EXISTS (SELECT FROM slimq.done WHERE id BETWEEN m.low AND m.high))
"""
_DELETE_ALIASES = """
DELETE FROM slimq.alias USING unnest(%s::text[], %s::text[]) AS m(sysid, first)
WHERE alias.sysid = m.sysid AND alias.first = m.first AND alias.ingested_at < %s::bigint
"""


_IS_ABANDONED = "SELECT EXISTS (SELECT FROM slimq.job WHERE lock <> '' AND dt <= slimq.now_ms())"
_IS_PAST = f"""
SELECT coalesce((SELECT sum(bytes) FROM slimq.type_count), 0) > %(bytes_max)s::bigint
  OR EXISTS (SELECT FROM slimq.done
    WHERE slot %% 2 = 0 AND ended_at < %(ok)s::bigint AND slot <> ALL(%(large)s::int[]))
  OR EXISTS (SELECT FROM slimq.done
    WHERE slot %% 2 = 1 AND ended_at < %(failed)s::bigint AND slot <> ALL(%(large)s::int[]))
  OR EXISTS (SELECT FROM slimq.idempotency
    WHERE ingested_at < slimq.now_ms() - {IDEMPOTENCY_WINDOW_MS})
  OR EXISTS (SELECT FROM slimq.alias WHERE ingested_at < least(
    %(ok)s::bigint, %(failed)s::bigint, slimq.now_ms() - {IDEMPOTENCY_WINDOW_MS}))
  OR EXISTS (SELECT FROM slimq.node WHERE seen_at < slimq.now_ms() - {NODES_KEPT_MS})
"""  # noqa: S608


class Keep(NamedTuple):
    """What a purge spares; see `EngineStore.purge`."""

    ok_before: int
    failed_before: int
    bytes_max: int


class _Past(NamedTuple):
    seq: int
    id: str
    type_id: int
    status: int
    output_id: int | None
    size: int
    slot: int


def is_abandoned(tx: Tx) -> bool:
    """Whether there is something to free: one statement for what is nearly always so."""
    return bool(tx.one(_IS_ABANDONED)[0])


def free(tx: Tx, limit: int, lock: str | None, shard: int) -> tuple[Freed, dict[int, int]]:
    """Return also the heads by the numbers of types."""
    if lock is None:
        rows = read_live(tx, _ABANDONED, (limit,))
    else:
        rows = read_live(tx, _OF_NODE, (lock, limit))
    if not rows:
        return Freed(0, 0, {}), {}
    (now,) = tx.one("SELECT slimq.now_ms()")
    for row in rows:
        lifecycle.free(row.mark, now)
        row.error = ABANDONED_TEXT
    again = [row for row in rows if row.mark.lock == FREE]
    add_abandoned_runs(tx, again)
    for row in rows:
        row.node = row.before.lock if row.mark.lock == DONE else None
    heads = write_marks(tx, rows, shard)
    by_name = {tx.types.name(tx, type_id): dt for type_id, dt in heads.items()}
    return Freed(len(again), len(rows) - len(again), by_name), heads


def slot_of(ended_at: int, kind: int) -> int:
    """Return the slot of jobs that ended then; the function `slimq.slot` says the same."""
    return ended_at // DAY_MS * 2 + (kind != OK)


def make_slots(link: PostgresLink, now: int) -> None:
    """Make the slots of the next days. When it cannot be done now, the next call tries
    again; what ends meanwhile goes to `done_other`."""
    wanted = {slot_of(now, OK) + step for step in range(2 * SLOTS_AHEAD)}
    there = {slot for slot, _ in link.once(lambda tx: tx.all(SLOTS))}
    for slot in sorted(wanted - there):
        _reshape(link, MAKE_SLOT.format(slot))


def _reshape(link: PostgresLink, statement: str) -> None:
    def work(tx: Tx) -> None:
        tx.db.execute(f"SET LOCAL lock_timeout = {LOCK_MS}".encode())
        tx.db.execute("SAVEPOINT shape")
        try:
            tx.db.execute(statement.encode())
        except (errors.LockNotAvailable, errors.DuplicateTable, errors.CheckViolation):
            tx.db.execute("ROLLBACK TO shape")

    link.write(work)


def is_past(tx: Tx, keep: Keep) -> bool:
    """Whether there is something to purge."""
    bounds = {"ok": keep.ok_before, "failed": keep.failed_before, "bytes_max": keep.bytes_max}
    return bool(tx.one(_IS_PAST, bounds | {"large": _large_slots(tx)})[0])


def _large_slots(tx: Tx) -> list[int]:
    return [slot for slot, jobs in tx.all(SLOTS) if jobs > LARGE_SLOT]


def purge(tx: Tx, keep: Keep, limit: int, shard: int) -> int:
    count = 0
    bounds = ((0, keep.ok_before), (1, keep.failed_before))
    large = _large_slots(tx)
    for odd, before in bounds:
        if count < limit:
            condition = "slot %% 2 = %s::int AND ended_at < %s::bigint AND slot <> ALL(%s::int[])"
            past = _past(tx, condition, (odd, before, large), limit - count)
            count += _delete(tx, past, shard)
    for odd in (0, 1):
        while count < limit and (excess := tx.one(_BYTES)[0] - keep.bytes_max) > 0:
            past = _past(tx, "slot %% 2 = %s::int", (odd,), limit - count)
            chosen = _until(past, excess)
            if not chosen:
                break
            count += _delete(tx, chosen, shard)
    _purged(tx, count)
    _forget(tx, keep)  # at last: an alias goes with its job
    return count


def drop_slots(link: PostgresLink, keep: Keep, shard: int) -> int:
    """Drop slots that are past as a whole; return how many jobs went."""
    past = [
        slot
        for slot, _ in link.once(lambda tx: tx.all(SLOTS))
        if (slot // 2 + 1) * DAY_MS <= (keep.failed_before if slot % 2 else keep.ok_before)
    ]
    return sum(link.write(lambda tx, slot=slot: _drop(tx, slot, shard)) for slot in past)  # type: ignore[misc]


def _drop(tx: Tx, slot: int, shard: int) -> int:
    """Children whose parents may run again stay, in `done_other`."""
    table = f"slimq.done_{slot}"
    # All of it is read, once.
    tx.db.execute(f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL enable_seqscan = on".encode())
    tx.db.execute("SAVEPOINT shape")
    try:
        tx.db.execute(f"ALTER TABLE slimq.done DETACH PARTITION {table}".encode())
    except errors.LockNotAvailable:
        tx.db.execute("ROLLBACK TO shape")
        return 0
    tx.do(_KEEP_ORPHANED.format(table))
    tally = Tally(shard)
    count = 0
    for type_id, status, jobs, size in tx.all(_SUMS.format(table)):
        count += jobs
        tally.add(type_id, kind_of(DONE, status), -jobs)
        tally.add(type_id, BYTES, -size - ROW_BYTES * jobs)
    outputs = [output_id for (output_id,) in tx.all(_OUTPUTS_IN.format(table))]
    outputs += [output_id for (output_id,) in tx.all(_RUNS_OF.format(table))]
    drop_outputs(tx, outputs)
    tally.apply(tx)
    _purged(tx, count)
    tx.db.execute(f"DROP TABLE {table}".encode())
    return count


def _forget(tx: Tx, keep: Keep) -> None:
    (now,) = tx.one("SELECT slimq.now_ms()")
    window = now - IDEMPOTENCY_WINDOW_MS
    tx.do("DELETE FROM slimq.idempotency WHERE ingested_at < %s::bigint", (window,))
    _forget_aliases(tx, min(keep.ok_before, keep.failed_before, window))
    tx.do("DELETE FROM slimq.node WHERE seen_at < %s::bigint", (now - NODES_KEPT_MS,))
    tx.do("DELETE FROM slimq.permit WHERE dt <= slimq.now_ms()")


def _forget_aliases(tx: Tx, oldest: int) -> None:
    """Forget aliases of jobs that are gone. A job may wait for longer than done ones are
    kept: then its aliases are looked at again after as long a time."""
    found = tx.all(_OLD_ALIASES, (oldest, PURGE_JOBS_MAX))
    if found:
        blocks = [(*name, owner, block_from(owner, count).last) for *name, owner, count in found]
        asked = tuple(map(list, zip(*blocks, strict=True)))
        tx.do(_KEEP_ALIASES, asked)
        tx.do(_DELETE_ALIASES, (*asked[:2], oldest))


def _past(tx: Tx, condition: str, values: tuple[object, ...], limit: int) -> list[_Past]:
    """Return done jobs, the longest finished first, and lock them."""
    return [_Past(*row) for row in tx.all(_PAST.format(condition), (*values, limit))]


def _until(jobs: list[_Past], excess: int) -> list[_Past]:
    """Return as many of the first jobs as together take `excess` bytes."""
    total = 0
    for count, job in enumerate(jobs):
        if total >= excess:
            return jobs[:count]
        total += job.size + ROW_BYTES
    return jobs


def _delete(tx: Tx, jobs: Sequence[_Past], shard: int) -> int:
    if not jobs:
        return 0
    seqs = [job.seq for job in jobs]
    outputs = [output_id for (output_id,) in tx.all(_OUTPUTS_OF, (seqs,))]
    tx.do(_DELETE, (sorted({job.slot for job in jobs}), seqs))
    drop_outputs(tx, outputs + [job.output_id for job in jobs])
    tally = Tally(shard)
    for job in jobs:
        tally.add(job.type_id, kind_of(DONE, job.status), -1)
        tally.add(job.type_id, BYTES, -job.size - ROW_BYTES)
    tally.apply(tx)
    return len(jobs)


def _purged(tx: Tx, count: int) -> None:
    if count:
        tx.do("UPDATE slimq.meta SET value = value + %s WHERE name = 'purged'", (count,))
