"""What people set and change in a PostgreSQL store: handlers, policies, single jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from slimq.core import lifecycle
from slimq.core.handler import Handler
from slimq.core.lifecycle import DONE, FREE
from slimq.store.base import Control, JobFilter, Policy
from slimq.store.postgres_marks import (
    Marked,
    keep_last_runs,
    read_done,
    read_live,
    read_marks,
    write_marks,
)
from slimq.store.postgres_tx import Tx
from slimq.store.postgres_where import choose
from slimq.store.rows import handler_of, policy_of

_HANDLER = "client, jobtype, version, lang, body, options, created_at"
_CURRENT = """
SELECT h.client, h.jobtype, h.version, h.lang, h.body, h.options, h.created_at
FROM slimq.handler_name AS n JOIN slimq.handler AS h
  ON h.client = n.client AND h.jobtype = n.jobtype AND h.version = n.current
ORDER BY h.client, h.jobtype
"""
_VERSIONS = f"""
SELECT {_HANDLER} FROM slimq.handler WHERE client = %s AND jobtype = %s ORDER BY version DESC
"""  # noqa: S608
_VERSION = f"""
SELECT {_HANDLER} FROM slimq.handler WHERE client = %s AND jobtype = %s AND version = %s::int
"""  # noqa: S608
_NEXT_VERSION = """
INSERT INTO slimq.handler_name AS n (client, jobtype, current, last) VALUES (%s, %s, 1, 1)
ON CONFLICT (client, jobtype) DO UPDATE SET last = n.last + 1, current = n.last + 1
RETURNING current
"""
_PUT = f"""
INSERT INTO slimq.handler ({_HANDLER}) VALUES (%s, %s, %s::int, %s, %s, %s,
  coalesce(nullif(%s::bigint, 0), slimq.now_ms()))
RETURNING {_HANDLER}
"""  # noqa: S608
_OLDER = """
SELECT version FROM slimq.handler WHERE client = %(client)s AND jobtype = %(jobtype)s
  AND version = coalesce(%(version)s::int, (
    SELECT max(h.version) FROM slimq.handler AS h JOIN slimq.handler_name AS n
      USING (client, jobtype)
    WHERE client = %(client)s AND jobtype = %(jobtype)s AND h.version < n.current))
"""
_PUT_POLICY = """
INSERT INTO slimq.policy VALUES (%s, %s, %s::boolean, %s::int, %s::int, %s::int)
ON CONFLICT (client, jobtype) DO UPDATE SET paused = excluded.paused,
  weight = excluded.weight, concurrency = excluded.concurrency, batch_size = excluded.batch_size
"""
_WAITING_OF_TYPE = """
WHERE type_id = %s::int AND lock = '' ORDER BY dt, seq LIMIT %s::int FOR UPDATE
"""
_END_HOLDS = """
UPDATE slimq.type SET hold_until = 0 WHERE hold_until > 0 AND type_id = ANY(%s::int[])
"""
CONTROL_VERSION = "SELECT value FROM slimq.meta WHERE name = 'control_version'"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def control(tx: Tx) -> Control:
    handlers = [handler_of(row) for row in tx.all(_CURRENT)]
    policies = [policy_of(row) for row in tx.all("SELECT * FROM slimq.policy ORDER BY 1, 2")]
    return Control(int(tx.one(CONTROL_VERSION)[0]), handlers, policies)


def versions(tx: Tx, client: str, jobtype: str) -> list[Handler]:
    return [handler_of(row) for row in tx.all(_VERSIONS, (client, jobtype))]


def put_handler(tx: Tx, handler: Handler) -> Handler:
    name = (handler.client, handler.jobtype)
    (version,) = tx.one(_NEXT_VERSION, name)
    body, options = _encode(handler.body).decode(), _encode(handler.written).decode()
    row = tx.one(_PUT, (*name, version, handler.lang, body, options, handler.created_at))
    _changed(tx)
    return handler_of(row)


def delete_handler(tx: Tx, client: str, jobtype: str) -> bool:
    name = (client, jobtype)
    if not tx.do("DELETE FROM slimq.handler WHERE client = %s AND jobtype = %s", name):
        return False
    query = "UPDATE slimq.handler_name SET current = NULL WHERE client = %s AND jobtype = %s"
    tx.do(query, name)
    _changed(tx)
    return True


def rollback_handler(tx: Tx, client: str, jobtype: str, version: int | None) -> Handler | None:
    name = {"client": client, "jobtype": jobtype}
    found = tx.one(_OLDER, {**name, "version": version})
    if found is None:
        return None
    query = "UPDATE slimq.handler_name SET current = %s::int WHERE client = %s AND jobtype = %s"
    tx.do(query, (found[0], client, jobtype))
    _changed(tx)
    return handler_of(tx.one(_VERSION, (client, jobtype, found[0])))


def put_policy(tx: Tx, policy: Policy) -> None:
    tx.do(
        _PUT_POLICY,
        (
            policy.client,
            policy.jobtype,
            policy.paused,
            policy.weight,
            policy.concurrency,
            policy.batch_size,
        ),
    )
    _changed(tx)


def cancel(tx: Tx, ids: Sequence[str], shard: int) -> list[str]:
    """End jobs that are not done; return which."""
    return [row.id for row in _cancel_marks(tx, read_marks(tx, ids), shard)]


def _cancel_marks(tx: Tx, rows: Iterable[Marked], shard: int) -> list[Marked]:
    now = _now(tx)
    ended = [row for row in rows if lifecycle.cancel(row.mark, now)]
    write_marks(tx, ended, shard)
    held = sorted({row.type_id for row in ended if lifecycle.may_hold(row.before)})
    if held:
        tx.do(_END_HOLDS, (held,))
    return ended


def retry(tx: Tx, ids: Sequence[str], shard: int) -> dict[str, int]:
    """Run jobs again; return the heads of their types."""
    _, heads = _retry_marks(tx, read_marks(tx, ids), shard)
    return {tx.types.name(tx, type_id): dt for type_id, dt in heads.items()}


def _retry_marks(tx: Tx, rows: Iterable[Marked], shard: int) -> tuple[int, dict[int, int]]:
    now = _now(tx)
    moved = [row for row in rows if lifecycle.retry(row.mark, now)]
    keep_last_runs(tx, [row for row in moved if row.before.lock == DONE])
    for row in moved:
        assert row.mark.lock == FREE, "a job that runs again waits"
    return len(moved), write_marks(tx, moved, shard)


def change_where(tx: Tx, verb: str, where: JobFilter, limit: int, shard: int) -> int:
    """Cancel or retry jobs that fit."""
    chosen = choose(tx, where)
    values = {**chosen.values, "limit": limit}
    rest = "WHERE {0} LIMIT %(limit)s::int FOR UPDATE"
    if verb == "cancel":
        if chosen.live is None:
            return 0
        return len(_cancel_marks(tx, read_live(tx, rest.format(chosen.live), values), shard))
    rows: list[Marked] = []
    if chosen.done is not None:
        rows = read_done(tx, rest.format(chosen.done), values)
    if chosen.live is not None and len(rows) < limit:
        later = f"{chosen.live} AND lock = '' AND dt > slimq.now_ms()"
        rows += read_live(tx, rest.format(later), {**values, "limit": limit - len(rows)})
    return _retry_marks(tx, rows, shard)[0]


def purge_type(tx: Tx, type_: str, limit: int, shard: int) -> int:
    """Cancel waiting jobs of a type, the next ones first."""
    type_id = tx.types.find(tx, type_)
    if type_id is None:
        return 0
    return len(_cancel_marks(tx, read_live(tx, _WAITING_OF_TYPE, (type_id, limit)), shard))


def _now(tx: Tx) -> int:
    (now,) = tx.one("SELECT slimq.now_ms()")
    return int(now)


def _changed(tx: Tx) -> None:
    tx.do("UPDATE slimq.meta SET value = value + 1 WHERE name = 'control_version'")
