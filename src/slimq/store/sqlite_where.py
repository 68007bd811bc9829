"""Which jobs of a SQLite store a JobFilter means, and the cheapest way to find them.

The exact counts of the types tell how many jobs each index would have to look at. When
one of them leads to few, they are gathered and sorted; when all lead to many, jobs are
walked in the order of their ids until enough are found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import apsw

from slimq.core.jobid import id_ceiling, id_floor
from slimq.core.lifecycle import DONE_SHIFT_MS
from slimq.store.base import JobFilter
from slimq.store.counts import ERROR, FAILED, KINDS, OK, RUNNING, WAITING
from slimq.store.sqlite_file import Read, Write
from slimq.store.sqlite_types import to_json

GATHER_MAX = 20_000  # jobs that are sorted for one page: about 40 ms

_STATES = {
    "deferred": ({WAITING}, "lock = '' AND dt > :now"),
    "ready": ({WAITING}, "lock = '' AND dt <= :now"),
    "running": ({RUNNING}, "lock <> '' AND lock <> '__done' AND dt > :now"),
    "abandoned": ({RUNNING}, "lock <> '' AND lock <> '__done' AND dt <= :now"),
    "done": ({OK, FAILED, ERROR}, "lock = '__done'"),
}
_OUTCOMES = {
    "ok": ({OK}, "lock = '__done' AND status < 300"),
    "failed": ({FAILED}, "lock = '__done' AND status >= 300 AND status < 500"),
    "error": ({ERROR}, "lock = '__done' AND status >= 500"),
}
_INDEXES = {  # of the jobs that an index holds: their kinds, and its condition
    "job_waiting": ({WAITING}, "lock = ''"),
    "job_running": ({RUNNING}, "lock <> '' AND lock <> '__done'"),
    "job_done_ok": ({OK}, "lock = '__done' AND status < 300"),
    "job_done_bad": ({FAILED, ERROR}, "lock = '__done' AND status >= 300"),
}
_COUNTS = "sum(waiting), sum(running), sum(ok), sum(failed), sum(error)"


class Chosen(NamedTuple):
    """Jobs that a filter means: `kinds` they may be of, the `condition` on their rows with
    its `values`, and the types they are of (None: all)."""

    kinds: set[int]
    condition: str
    values: dict[str, object]
    type_ids: list[int] | None

    def narrowed(self, kinds: set[int], condition: str) -> Chosen:
        both = f"{self.condition} AND {condition}"
        return Chosen(self.kinds & kinds, both, self.values, self.type_ids)


class Way(NamedTuple):
    """Through which index, how many jobs it leads to, and the condition of these."""

    through: str
    cost: int
    condition: str = "1"


def choose(tx: Read | Write, where: JobFilter, before: str = "") -> Chosen:
    kinds = set(KINDS)
    conditions = ["1"]
    values: dict[str, object] = {"now": tx.now}
    for name, table in ((where.state, _STATES), (where.outcome, _OUTCOMES)):
        if name is not None:
            of_kinds, condition = table[name]
            kinds &= of_kinds
            conditions.append(condition)
    for bound, text in (
        ("id >= :since", id_floor(where.since)),
        ("id < :until", id_ceiling(where.until)),
    ):
        if text:
            conditions.append(bound)
            values[bound[-5:]] = text
    if where.done_at is not None:
        conditions.append("(lock <> '__done' OR dt <= :done_at)")
        values["done_at"] = where.done_at + DONE_SHIFT_MS
    if before:
        conditions.append("id < :before")
        values["before"] = before
    return Chosen(kinds, " AND ".join(conditions), values, _type_ids(tx.db, where))


def type_condition(client: str | None, jobtype: str | None) -> tuple[str, list[str]]:
    """Return a condition on the name of a type, and its values."""
    if client is not None and jobtype is not None:
        return "name = ?", [f"{client}/{jobtype}"]
    if client is not None:
        return "name >= ? AND name < ?", [f"{client}/", f"{client}0"]  # "0" is behind "/"
    if jobtype is not None:
        return "substr(name, instr(name, '/') + 1) = ?", [jobtype]
    return "1", []


def _type_ids(db: apsw.Connection, where: JobFilter) -> list[int] | None:
    if where.client is None and where.jobtype is None:
        return None
    condition, values = type_condition(where.client, where.jobtype)
    query = f"SELECT type_id FROM type WHERE {condition}"  # noqa: S608 -- our own text
    return [type_id for (type_id,) in db.execute(query, values)]


def ways(db: apsw.Connection, chosen: Chosen) -> list[Way]:
    """Return all indexes that lead to all chosen jobs, the cheapest first."""
    everywhere = _count(db, None)
    of_types = _count(db, chosen.type_ids)
    found = []
    for index, (kinds, condition) in _INDEXES.items():
        if chosen.kinds <= kinds:
            counts = of_types if index == "job_waiting" else everywhere
            found.append(Way(index, sum(counts[kind] for kind in kinds), condition))
    if chosen.type_ids is not None:
        found.append(Way("job_by_type", sum(of_types)))
    return sorted(found, key=lambda way: way.cost)


def _count(db: apsw.Connection, type_ids: Collection[int] | None) -> Sequence[int]:
    if type_ids is None:
        row = db.execute(f"SELECT {_COUNTS} FROM type").get  # noqa: S608
    else:
        query = f"SELECT {_COUNTS} FROM type WHERE type_id IN (SELECT value FROM json_each(?))"  # noqa: S608
        row = db.execute(query, (to_json(list(type_ids)),)).get
    return [int(count or 0) for count in row]


def newest_first(tx: Read, chosen: Chosen, limit: int) -> list[int]:
    """Return the numbers of up to `limit` jobs, newest id first."""
    if not chosen.kinds or chosen.type_ids == []:
        return []
    cheapest = (*ways(tx.db, chosen), Way("job_by_id", GATHER_MAX + 1))[0]
    if cheapest.cost > GATHER_MAX:
        single = chosen.type_ids is not None and len(chosen.type_ids) == 1
        cheapest = Way("job_by_type" if single else "job_by_id", 0)
    return _seqs(tx, chosen, cheapest, f"ORDER BY id DESC LIMIT {int(limit)}")


def any_order(tx: Write, chosen: Chosen, limit: int) -> str:
    """Return the part of a query behind FROM job that finds up to `limit` jobs of one kind."""
    way = ways(tx.db, chosen)[0]
    return f"{_from(chosen, way)} LIMIT {int(limit)}"


def _seqs(tx: Read, chosen: Chosen, way: Way, rest: str) -> list[int]:
    query = f"SELECT seq FROM job {_from(chosen, way)} {rest}"  # noqa: S608 -- our own text
    return [seq for (seq,) in tx.db.execute(query, chosen.values)]


def _from(chosen: Chosen, way: Way) -> str:
    return (
        f"INDEXED BY {way.through} "
        f"WHERE {way.condition} AND {chosen.condition} AND {_of_types(chosen, way)}"
    )


def _of_types(chosen: Chosen, way: Way) -> str:
    if chosen.type_ids is None:
        return "1"
    column = "type_id" if way.through in ("job_by_type", "job_waiting") else "+type_id"
    if len(chosen.type_ids) == 1:  # then the index gives its jobs in the order of their ids
        chosen.values["types"] = chosen.type_ids[0]
        return f"{column} = :types"
    chosen.values["types"] = to_json(chosen.type_ids)
    return f"{column} IN (SELECT value FROM json_each(:types))"  # noqa: S608 -- our own text
