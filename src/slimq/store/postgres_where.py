"""Which jobs of a PostgreSQL store a JobFilter means: conditions on `job` and on `done`.

The planner finds the way: newest first it walks the ids, of all jobs or of one type.
"""

from __future__ import annotations

from typing import NamedTuple

from slimq.core.jobid import id_ceiling, id_floor
from slimq.store.base import JobFilter
from slimq.store.postgres_tx import Tx

_LIVE_STATES = {
    "deferred": "lock = '' AND dt > slimq.now_ms()",
    "ready": "lock = '' AND dt <= slimq.now_ms()",
    "running": "lock <> '' AND dt > slimq.now_ms()",
    "abandoned": "lock <> '' AND dt <= slimq.now_ms()",
}
_OUTCOMES = {
    "ok": "slot %% 2 = 0",
    "failed": "slot %% 2 = 1 AND status < 500",
    "error": "slot %% 2 = 1 AND status >= 500",
}


class Chosen(NamedTuple):
    """Conditions on the rows of `job` and of `done` with their values; None: none of them."""

    live: str | None
    done: str | None
    values: dict[str, object]


def choose(tx: Tx, where: JobFilter, before: str = "") -> Chosen:
    common = ["true"]
    values: dict[str, object] = {}
    for condition, name, text in (
        ("id >= %(since)s", "since", id_floor(where.since)),
        ("id < %(until)s", "until", id_ceiling(where.until)),
        ("id < %(before)s", "before", before),
    ):
        if text:
            common.append(condition)
            values[name] = text
    types = _type_ids(tx, where)
    if types is not None and len(types) == 1:  # then an index gives them in the order of ids
        common.append("type_id = %(type)s::int")
        values["type"] = types[0]
    elif types is not None:
        common.append("type_id = ANY(%(types)s::int[])")
        values["types"] = types
    live, done = list(common), list(common)
    if where.done_at is not None:
        done.append("ended_at <= %(done_at)s::bigint")
        values["done_at"] = where.done_at
    if where.outcome is not None:
        done.append(_OUTCOMES[where.outcome])
    if where.state in _LIVE_STATES:
        live.append(_LIVE_STATES[where.state])
    wants_live = where.state != "done" and where.outcome is None
    wants_done = where.state in (None, "done")
    return Chosen(
        " AND ".join(live) if wants_live else None,
        " AND ".join(done) if wants_done else None,
        values,
    )


def type_condition(client: str | None, jobtype: str | None) -> tuple[str, list[str]]:
    """Return a condition on the name of a type, and its values."""
    if client is not None and jobtype is not None:
        return "name = %s", [f"{client}/{jobtype}"]
    if client is not None:
        return "name >= %s AND name < %s", [f"{client}/", f"{client}0"]  # "0" is behind "/"
    if jobtype is not None:
        return "split_part(name, '/', 2) = %s", [jobtype]
    return "true", []


def _type_ids(tx: Tx, where: JobFilter) -> list[int] | None:
    if where.client is None and where.jobtype is None:
        return None
    condition, values = type_condition(where.client, where.jobtype)
    query = f"SELECT type_id FROM slimq.type WHERE {condition}"  # noqa: S608 -- our own text
    return [type_id for (type_id,) in tx.all(query, values)]
