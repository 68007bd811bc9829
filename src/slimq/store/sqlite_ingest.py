"""Jobs come into a SQLite store: one statement for all of them, whatever their number.

A statement per job would be as fast on an idle machine, but SQLite is called without the
GIL: every step has to win it back from a busy event loop. Measured with one busy thread:
2,400 jobs/s by executemany, 690,000 by one statement. So the jobs of a transaction are
packed into one blob, one text of ids, and one array with a number for each job::

    bits 49-62  which of the `NewJobs` it is of
    bits 21-48  where its data starts in the blob
    bits  0-20  how long its data is
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import apsw

from slimq.core.jobid import ID_LENGTH
from slimq.core.limits import LINE_MAX
from slimq.store.base import Cursor, CursorMoved, Ingested, KeyUse, NewJobs
from slimq.store.counts import WAITING
from slimq.store.idempotency import Key, Sorted, sort_out
from slimq.store.sqlite_file import Write
from slimq.store.sqlite_types import Tally, from_json, to_json

INLINE_MAX = 2048  # data above half a page is kept apart: a job's row is rewritten as it moves
_SIZE_BITS, _START_BITS, _GROUP_BITS = 21, 28, 14
_PACK_BYTES = (1 << _START_BITS) - 2 * LINE_MAX
_PACK_GROUPS = 1 << _GROUP_BITS
assert LINE_MAX < 1 << _SIZE_BITS, "the data of a job fits"

_SIZE = f"(p.value & {(1 << _SIZE_BITS) - 1})"
_DATA = f"substr(?1, ((p.value >> {_SIZE_BITS}) & {(1 << _START_BITS) - 1}) + 1, {_SIZE})"
_ID = f"CAST(substr(?2, (p.rowid - 1) * {ID_LENGTH} + 1, {ID_LENGTH}) AS TEXT)"
_INSERT = f"""
WITH g AS MATERIALIZED (
  SELECT key, value->>0 AS type_id, value->>1 AS dt, value->>2 AS trace, value->>3 AS parent
  FROM json_each(?4))
INSERT OR IGNORE INTO job (id, type_id, dt, due_at, trace, parent, data)
SELECT {_ID}, g.type_id, g.dt, g.dt, g.trace, g.parent,
  CASE WHEN {_SIZE} <= {INLINE_MAX} THEN {_DATA} END
FROM carray(?3) AS p CROSS JOIN g ON g.key = p.value >> {_SIZE_BITS + _START_BITS}
"""  # noqa: S608
_INSERT_LARGE = f"""
INSERT OR IGNORE INTO large (seq, data)
SELECT job.seq, {_DATA} FROM carray(?3) AS p CROSS JOIN job INDEXED BY job_by_id ON job.id = {_ID}
WHERE {_SIZE} > {INLINE_MAX} AND job.data IS NULL
"""  # noqa: S608
_OWNERS = """
SELECT json_group_array(json_array(m.value->>1, m.value->>2, first, count, digest))
FROM json_each(?) AS m
JOIN idempotency AS i ON i.type_id = m.value->>0 AND i.key = m.value->>2
"""
_OWN = """
REPLACE INTO idempotency (type_id, key, first, count, digest, ingested_at)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, ?2 FROM json_each(?1)
"""
_ALIAS = """
INSERT OR IGNORE INTO alias (sysid, first, count, owner, ingested_at)
SELECT value->>0, value->>1, value->>2, value->>3, ?2 FROM json_each(?1)
"""
_CURSOR = "SELECT segment, offset, body_offset, lines FROM journal WHERE name = ?"

_MOVE = """
UPDATE journal SET segment = ?, offset = ?, body_offset = ?, lines = ?
WHERE name = ? AND segment = ? AND offset = ? AND body_offset = ? AND lines = ?
"""


def read_cursor(db: apsw.Connection, journal: str) -> Cursor:
    return Cursor(*(db.execute(_CURSOR, (journal,)).get or ()))


def move_cursor(db: apsw.Connection, journal: str, expected: Cursor, moved: Cursor) -> None:
    db.execute(_MOVE, (*moved, journal, *expected))
    if db.changes():
        return
    found = read_cursor(db, journal)
    if found != expected:
        raise CursorMoved(f"journal {journal} is ingested up to {found}, not {expected}")
    db.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (journal, *moved))  # a new one


def ingest(tx: Write, jobs: Sequence[NewJobs]) -> Ingested:
    """Insert jobs that are not there yet."""
    numbers = tx.types.make(tx.db, {new.type for new in jobs})
    sorted_ = _sort_keys(tx, jobs, numbers)
    tally = Tally()
    heads: dict[str, int] = {}
    total = sum(len(new.ids) for new in jobs)
    added = 0
    for new, count in _insert(tx.db, sorted_.inserts, numbers):
        if count:
            added += count
            tally.add(numbers[new.type], WAITING, count)
            tally.due(numbers[new.type], new.dt)
            heads[new.type] = min(heads.get(new.type, new.dt), new.dt)
    tally.apply(tx.db)
    replays = sum(len(new.ids) for new, _ in sorted_.replays)
    return Ingested(added, total - added, replays, heads)


def _sort_keys(tx: Write, jobs: Sequence[NewJobs], numbers: dict[str, int]) -> Sorted:
    asked = [(numbers[new.type], new.type, new.key) for new in jobs if new.key]
    if not asked:
        return Sorted(list(jobs), [], {})
    found = from_json(tx.db.execute(_OWNERS, (to_json(asked),)).get)
    known: dict[Key, KeyUse] = {(type_, key): KeyUse(*use) for type_, key, *use in found}
    sorted_ = sort_out(jobs, known)
    owners = [(numbers[type_], key, *use) for (type_, key), use in sorted_.owners.items()]
    tx.db.execute(_OWN, (to_json(owners), tx.now))
    aliases = [
        (new.record[8:16], new.record, new.count, owner.first) for new, owner in sorted_.replays
    ]
    tx.db.execute(_ALIAS, (to_json(aliases), tx.now))
    return sorted_


def _insert(
    db: apsw.Connection, jobs: list[NewJobs], numbers: dict[str, int]
) -> Iterator[tuple[NewJobs, int]]:
    """Insert jobs; yield how many of each were not there yet.

    Nearly always that is all of them. When it is not, the counts are taken group by group.
    """
    for part in _parts(jobs):
        if len(part) == 1:
            yield part[0], _insert_part(db, part, numbers)
            continue
        size = sum(len(new.ids) for new in part)
        db.execute("SAVEPOINT part")
        if _insert_part(db, part, numbers) == size:
            db.execute("RELEASE part")
            yield from ((new, len(new.ids)) for new in part)
        else:
            db.execute("ROLLBACK TO part")
            db.execute("RELEASE part")
            for new in part:
                yield new, _insert_part(db, [new], numbers)


def _parts(jobs: list[NewJobs]) -> Iterator[list[NewJobs]]:
    """Cut jobs into parts that can be packed. One ingest is nearly always one part."""
    part: list[NewJobs] = []
    size = 0
    for new in _slices(jobs):
        bytes_ = sum(map(len, new.data))
        if part and (size + bytes_ > _PACK_BYTES or len(part) == _PACK_GROUPS):
            yield part
            part, size = [], 0
        part.append(new)
        size += bytes_
    if part:
        yield part


def _slices(jobs: list[NewJobs]) -> Iterator[NewJobs]:
    """Cut what has more data than fits into one pack."""
    most = _PACK_BYTES // LINE_MAX
    for new in jobs:
        assert len(new.ids) == len(new.data), "every job has an id and data"
        if not new.ids:
            continue
        if len(new.ids) <= most or sum(map(len, new.data)) <= _PACK_BYTES:
            yield new
            continue
        for start in range(0, len(new.ids), most):
            ids, data = new.ids[start : start + most], new.data[start : start + most]
            yield NewJobs(new.type, new.dt, ids, data, trace=new.trace, parent=new.parent)


def _insert_part(db: apsw.Connection, part: list[NewJobs], numbers: dict[str, int]) -> int:
    groups = [(numbers[new.type], new.dt, new.trace or None, new.parent or None) for new in part]
    blob, ids, packed, longest = _pack(part)
    bindings = (blob, ids, apsw.carray(packed))
    db.execute(_INSERT, (*bindings, to_json(groups)))
    count = db.changes()
    if longest > INLINE_MAX:
        db.execute(_INSERT_LARGE, bindings)
    return count


def _pack(part: list[NewJobs]) -> tuple[bytes, bytes, array[int], int]:
    packed = array("q")
    append = packed.append
    start = longest = 0
    for group, new in enumerate(part):
        base = group << (_SIZE_BITS + _START_BITS)
        for data in new.data:
            size = len(data)
            append(base | start << _SIZE_BITS | size)
            start += size
        longest = (
            max(longest, *map(len, new.data))
            if len(new.data) > 1
            else max(longest, len(new.data[0]))
        )
    ids = "".join([id_ for new in part for id_ in new.ids]).encode("ascii")
    assert len(ids) == ID_LENGTH * len(packed), "ids have one length"
    # SQLite takes an empty blob for NULL: it gets one byte more.
    blob = b"".join([data for new in part for data in new.data]) + b"\0"
    return blob, ids, packed, longest
