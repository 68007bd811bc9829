"""What a PostgreSQL says of itself: its version, how it commits, what keeps it from vacuuming."""

from __future__ import annotations

from slimq.core.duration import format_ms
from slimq.store.base import StoreFacts
from slimq.store.postgres_tx import Tx

SNAPSHOT_MS = 5 * 60_000  # an older one keeps rows that a busy hour makes by the million
DEAD_ROWS = 1_000_000  # a claim that passes over so many takes twice its time
# The sessions of other users are seen by members of pg_monitor only.
_FACTS = """
SELECT current_setting('server_version'), current_setting('fsync'),
  current_setting('synchronous_commit'),
  coalesce(pg_stat_get_dead_tuples('slimq.job'::regclass), 0),
  coalesce((SELECT max(extract(epoch FROM clock_timestamp() - o.since) * 1000)::bigint FROM (
    SELECT xact_start FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
      AND datname = current_database() AND backend_type <> 'autovacuum worker'
    UNION ALL
    SELECT prepared FROM pg_prepared_xacts WHERE database = current_database()) AS o(since)), 0)
"""


def facts(tx: Tx) -> StoreFacts:
    version, fsync, commit, dead_rows, oldest_ms = tx.one(_FACTS)
    return StoreFacts(
        kind="postgresql",
        version=version.split()[0],
        synchronous_commit=commit,
        dead_rows=dead_rows,
        oldest_snapshot_ms=max(0, oldest_ms),
        warnings=warnings(fsync, commit, dead_rows, oldest_ms),
    )


def warnings(fsync: str, commit: str, dead_rows: int, oldest_ms: int) -> list[str]:
    """Return what an operator should look at, in words."""
    found = []
    if fsync != "on":
        found.append("fsync is off: a crash of its machine may destroy the database")
    if commit == "off":
        found.append("synchronous_commit is off: a crash of the server takes back its last commits")
    if oldest_ms >= SNAPSHOT_MS:
        minutes = format_ms(oldest_ms // 60_000 * 60_000)
        found.append(f"a transaction has been open for {minutes}: dead rows cannot be removed")
    if dead_rows >= DEAD_ROWS:
        found.append(f"{dead_rows:,} dead rows in slimq.job: let autovacuum run more often")
    return found
