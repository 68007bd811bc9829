"""Jobs come into a PostgreSQL store: a few statements for all of them, whatever their number.

A job that is there already is skipped: one that waits or runs by the unique index, one
that is done by looking before and after. After, because between the look before and the
insert it may have ended; then the transaction is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from slimq.store.base import Cursor, CursorMoved, Ingested, KeyUse, NewJobs
from slimq.store.counts import WAITING
from slimq.store.idempotency import Key, Sorted, sort_out
from slimq.store.postgres_tx import Again, Tx
from slimq.store.postgres_types import BYTES, ROW_BYTES, Tally, hint

_CURSOR = 'SELECT segment, "offset", body_offset, lines FROM slimq.journal WHERE name = %s'
_MOVE = """
UPDATE slimq.journal SET segment = %s, "offset" = %s, body_offset = %s, lines = %s
WHERE name = %s AND segment = %s AND "offset" = %s AND body_offset = %s AND lines = %s
"""
_START = "INSERT INTO slimq.journal VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
_INSERT = """
WITH added AS (
  INSERT INTO slimq.job (type_id, dt, due_at, trace, parent, id, data)
  SELECT g.type_id, g.dt, g.dt, g.trace, g.parent, n.id, substr(%(data)s::bytea, start, size)
  FROM unnest(%(ids)s::text[], %(starts)s::int[], %(sizes)s::int[], %(groups)s::int[])
    WITH ORDINALITY AS n(id, start, size, grp, place)
  JOIN unnest(%(types)s::int[], %(dts)s::bigint[], %(traces)s::text[], %(parents)s::text[])
    WITH ORDINALITY AS g(type_id, dt, trace, parent, grp) ON g.grp = n.grp
  ORDER BY n.place
  ON CONFLICT (id) DO NOTHING
  RETURNING type_id, dt, octet_length(data) AS size)
SELECT type_id, count(*), min(dt), sum(size)::bigint FROM added GROUP BY type_id
"""
_INSERT_ALIKE = """
WITH added AS (
  INSERT INTO slimq.job (type_id, dt, due_at, trace, parent, id, data)
  SELECT %(type)s::int, %(dt)s::bigint, %(dt)s::bigint, %(trace)s::text, %(parent)s::text, n.id,
    substr(%(data)s::bytea, start, size)
  FROM unnest(%(ids)s::text[], %(starts)s::int[], %(sizes)s::int[]) AS n(id, start, size)
  ON CONFLICT (id) DO NOTHING
  RETURNING type_id, dt, octet_length(data) AS size)
SELECT type_id, count(*), min(dt), sum(size)::bigint FROM added GROUP BY type_id
"""
_DONE_BETWEEN = "SELECT id FROM slimq.done WHERE id >= %s AND id <= %s LIMIT %s::int"
_DONE = "SELECT id FROM slimq.done WHERE id = ANY(%s::text[])"
_OWNERS = """
SELECT m.type, m.key, i.first, i.count, i.digest
FROM unnest(%s::int[], %s::text[], %s::text[]) AS m(type_id, type, key)
JOIN slimq.idempotency AS i ON i.type_id = m.type_id AND i.key = m.key
ORDER BY i.type_id, i.key FOR UPDATE OF i
"""
_OWN = """
INSERT INTO slimq.idempotency AS i (type_id, key, first, count, digest, ingested_at)
SELECT m.type_id, m.key, m.first, m.count, m.digest, slimq.now_ms()
FROM unnest(%s::int[], %s::text[], %s::text[], %s::int[], %s::text[])
  AS m(type_id, key, first, count, digest) ORDER BY 1, 2
ON CONFLICT (type_id, key) DO UPDATE SET
  first = excluded.first, count = excluded.count, digest = excluded.digest,
  ingested_at = excluded.ingested_at
WHERE i.first = ANY(%s::text[])
"""
_ALIAS = """
INSERT INTO slimq.alias (sysid, first, count, owner, ingested_at)
SELECT m.sysid, m.first, m.count, m.owner, slimq.now_ms()
FROM unnest(%s::text[], %s::text[], %s::int[], %s::text[]) AS m(sysid, first, count, owner)
ON CONFLICT DO NOTHING
"""


def read_cursor(tx: Tx, journal: str) -> Cursor:
    return Cursor(*(tx.one(_CURSOR, (journal,)) or ()))


def move_cursor(tx: Tx, journal: str, expected: Cursor, moved: Cursor) -> None:
    if tx.do(_MOVE, (*moved, journal, *expected)):
        return
    found = read_cursor(tx, journal)
    if found != expected:
        raise CursorMoved(f"journal {journal} is ingested up to {found}, not {expected}")
    if not tx.do(_START, (journal, *moved)):
        raise Again


def ingest(tx: Tx, jobs: Sequence[NewJobs], shard: int) -> tuple[Ingested, dict[int, int]]:
    """Insert jobs that are not there yet; return also the heads by the numbers of types."""
    numbers = tx.types.make(tx, {new.type for new in jobs})
    names = {numbers[new.type]: new.type for new in jobs}
    sorted_ = _sort_keys(tx, jobs, numbers)
    tally = Tally(shard)
    heads: dict[int, int] = {}
    total = sum(len(new.ids) for new in jobs)
    added = 0
    for type_id, count, head, size in _insert(tx, sorted_.inserts, numbers):
        added += count
        tally.add(type_id, WAITING, count)
        tally.add(type_id, BYTES, size + ROW_BYTES * count)
        heads[type_id] = head
    tally.apply(tx)
    hint(tx, heads)
    replays = sum(len(new.ids) for new, _ in sorted_.replays)
    by_name = {names[type_id]: dt for type_id, dt in heads.items()}
    return Ingested(added, total - added, replays, by_name), heads


def _sort_keys(tx: Tx, jobs: Sequence[NewJobs], numbers: dict[str, int]) -> Sorted:
    keyed = [new for new in jobs if new.key]
    if not keyed:
        return Sorted(list(jobs), [], {})
    asked = zip(*{(numbers[new.type], new.type, new.key) for new in keyed}, strict=True)
    found = tx.all(_OWNERS, tuple(map(list, asked)))
    known: dict[Key, KeyUse] = {(type_, key): KeyUse(*use) for type_, key, *use in found}
    sorted_ = sort_out(jobs, known)
    if sorted_.owners:
        owners = [(numbers[type_], key, *use) for (type_, key), use in sorted_.owners.items()]
        before = [use.first for use in known.values()]
        if tx.do(_OWN, (*map(list, zip(*owners, strict=True)), before)) < len(owners):
            raise Again  # another node's request took a key meanwhile
    if sorted_.replays:
        aliases = [
            (new.record[8:16], new.record, new.count, owner.first) for new, owner in sorted_.replays
        ]
        tx.do(_ALIAS, tuple(map(list, zip(*aliases, strict=True))))
    return sorted_


def _insert(
    tx: Tx, jobs: list[NewJobs], numbers: dict[str, int]
) -> list[tuple[int, int, int, int]]:
    """Return for each type: number, count, least dt and bytes of what is new."""
    ids = [id_ for new in jobs for id_ in new.ids]
    if not ids:
        return []
    if done := _done_among(tx, ids):
        jobs = [_without(new, done) for new in jobs]
        ids = [id_ for new in jobs for id_ in new.ids]
    data = [each for new in jobs for each in new.data]
    assert len(ids) == len(data), "every job has an id and data"
    sizes = [len(each) for each in data]
    values = {
        "ids": ids,
        "data": b"".join(data),
        "starts": [end - size + 1 for end, size in zip(accumulate(sizes), sizes, strict=True)],
        "sizes": sizes,
    }
    if len(jobs) == 1:
        added = tx.all(_INSERT_ALIKE, values | _alike(jobs[0], numbers))
    else:
        added = tx.all(_INSERT, values | _groups(jobs, numbers))
    if _done_among(tx, ids):
        raise Again
    return [(type_id, count, head, size) for type_id, count, head, size in added]


def _alike(new: NewJobs, numbers: dict[str, int]) -> dict[str, object]:
    return {
        "type": numbers[new.type],
        "dt": new.dt,
        "trace": new.trace or None,
        "parent": new.parent or None,
    }


def _groups(jobs: list[NewJobs], numbers: dict[str, int]) -> dict[str, object]:
    return {
        "groups": [place for place, new in enumerate(jobs, 1) for _ in new.ids],
        "types": [numbers[new.type] for new in jobs],
        "dts": [new.dt for new in jobs],
        "traces": [new.trace or None for new in jobs],
        "parents": [new.parent or None for new in jobs],
    }


def _done_among(tx: Tx, ids: list[str]) -> set[str]:
    """Return those that are done. Ids of one ingest are neighbours nearly always, and then
    one look at the span of all of them is enough."""
    if not ids:
        return set()
    most = len(ids) + 1000
    found = tx.all(_DONE_BETWEEN, (min(ids), max(ids), most))
    if len(found) == most:
        found = tx.all(_DONE, (ids,))
    return {id_ for (id_,) in found}.intersection(ids)


def _without(new: NewJobs, done: set[str]) -> NewJobs:
    kept = [(id_, data) for id_, data in zip(new.ids, new.data, strict=True) if id_ not in done]
    ids, data = [id_ for id_, _ in kept], [data for _, data in kept]
    return NewJobs(new.type, new.dt, ids, data, trace=new.trace, parent=new.parent)
