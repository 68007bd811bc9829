"""A PostgreSQL as one end of a move: rows come and go by COPY."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from slimq.core.lifecycle import DONE
from slimq.core.setting import without_password
from slimq.errors import StoreUnavailable
from slimq.store.counts import KINDS, kind_of
from slimq.store.moving import META, TABLES, Kinds, Row, closed_text, not_empty
from slimq.store.postgres_link import connect
from slimq.store.postgres_tend import MAKE_SLOT, SLOTS, slot_of
from slimq.store.postgres_trouble import said
from slimq.store.postgres_types import ROW_BYTES

TRIES = 20  # to lock all tables of a store that is in use
LOCK_MS = 200  # for each table, longer from try to try; others wait behind it meanwhile
SLOTS_MAX = 400  # partitions that are made for done jobs; those of other days share one

_ENDED_AT, _STATUS = (TABLES["done"].index(name) for name in ("ended_at", "status"))
_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'slimq'::regnamespace
  AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1
"""
_CLOSED = """
SELECT obj_description(oid, 'pg_proc') FROM pg_proc
WHERE pronamespace = 'slimq'::regnamespace AND proname = 'closed'
"""
_REFUSE = """
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = {};
END
"""
_CLOSE = "CREATE FUNCTION slimq.closed() RETURNS trigger LANGUAGE plpgsql AS {}"
_TRIGGER = """
CREATE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT
EXECUTE FUNCTION slimq.closed()
"""
_HELD = "SELECT count(*) FROM slimq.job WHERE lock <> '' AND dt > slimq.now_ms()"
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""
_COUNT = f"""
INSERT INTO slimq.type_count (type_id, shard, waiting, running, ok, failed, error, bytes)
SELECT type_id, 0, sum(waiting), sum(running), sum(ok), sum(failed), sum(error), sum(bytes)
FROM (
  SELECT type_id, count(*) FILTER (WHERE lock = '') AS waiting,
    count(*) FILTER (WHERE lock <> '') AS running, 0 AS ok, 0 AS failed, 0 AS error,
    sum({ROW_BYTES} + octet_length(data)) AS bytes
  FROM slimq.job GROUP BY type_id
  UNION ALL
  SELECT type_id, 0, 0, count(*) FILTER (WHERE status < 300),
    count(*) FILTER (WHERE status BETWEEN 300 AND 499), count(*) FILTER (WHERE status > 499),
    sum({ROW_BYTES} + octet_length(data))
  FROM slimq.done GROUP BY type_id) AS c
GROUP BY type_id
"""  # noqa: S608
_NEXT = """
UPDATE slimq.type SET next_dt = c.next_dt
FROM (SELECT type_id, min(dt) AS next_dt FROM slimq.job WHERE lock = '' GROUP BY type_id) AS c
WHERE type.type_id = c.type_id
"""
_SEQUENCES = """
SELECT setval(pg_get_serial_sequence('slimq.job', 'seq'), greatest(1,
    (SELECT max(seq) FROM slimq.job), (SELECT max(seq) FROM slimq.done))),
  setval(pg_get_serial_sequence('slimq.type', 'type_id'),
    greatest(1, (SELECT max(type_id) FROM slimq.type))),
  setval(pg_get_serial_sequence('slimq.output', 'output_id'),
    greatest(1, (SELECT max(output_id) FROM slimq.output)))
"""
_KINDS = """
SELECT type_id, sum(waiting)::bigint, sum(running)::bigint, sum(ok)::bigint,
  sum(failed)::bigint, sum(error)::bigint FROM slimq.type_count GROUP BY type_id
"""


class PostgresEnd:
    """Keeps `moving.End`."""

    def __init__(self, url: str) -> None:
        self.shown = without_password(url)
        self._url = url
        with self._guard():
            self._db = connect(url, answer_s=math.inf)  # a checksum of all jobs takes its time

    def closed_for(self) -> str:
        with self._guard():
            row = self._db.execute(_CLOSED).fetchone()
            return str(row[0]) if row else ""

    def close_for(self, target: str) -> int:
        for patience in range(1, TRIES + 1):
            with self._guard(), suppress(*_IN_THE_WAY), self._db.transaction():
                self._lock("SHARE ROW EXCLUSIVE", LOCK_MS * patience)
                row = self._db.execute(_HELD).fetchone()
                assert row is not None, "a count has a value"
                if not row[0] and not self.closed_for():
                    self._close(target)
                return int(row[0])
        raise self._busy()

    def _close(self, target: str) -> None:
        body = sql.SQL(_REFUSE).format(sql.Literal(closed_text(target))).as_string(self._db)
        self._db.execute(sql.SQL(_CLOSE).format(sql.Literal(body)))
        comment = sql.SQL("COMMENT ON FUNCTION slimq.closed() IS {}")
        self._db.execute(comment.format(sql.Literal(target)))
        for table in self._tables():
            self._db.execute(sql.SQL(_TRIGGER).format(table))

    def reopen(self) -> None:
        with self._guard():
            if self._db.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                self._db.execute("ROLLBACK")
        for patience in range(1, TRIES + 1):
            with self._guard(), suppress(*_IN_THE_WAY), self._db.transaction():
                self._lock("ACCESS EXCLUSIVE", LOCK_MS * patience)
                self._db.execute("DROP FUNCTION IF EXISTS slimq.closed() CASCADE")
                return
        raise self._busy()

    def size(self) -> int:
        return sum(self.kinds().values())

    def begin_read(self) -> None:
        with self._guard():
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def begin_write(self) -> None:
        with self._guard():
            self._db.execute("BEGIN; SET LOCAL synchronous_commit = on")
            self._lock("EXCLUSIVE", LOCK_MS * TRIES)
            for table in TABLES:
                query = f"SELECT EXISTS (SELECT FROM slimq.{table})"  # noqa: S608
                found = self._db.execute(query.encode())
                if table != "meta" and found.fetchone() == (True,):
                    raise not_empty(self.shown, table)

    def slots(self) -> list[int]:
        with self._guard():
            query = "SELECT DISTINCT slot FROM slimq.done ORDER BY 1 DESC"
            return [slot for (slot,) in self._db.execute(query).fetchall()]

    def make_slots(self, slots: list[int]) -> None:
        with self._guard():
            there = {slot for slot, _ in self._db.execute(SLOTS).fetchall()}
            for slot in slots[:SLOTS_MAX]:
                if slot not in there:
                    self._db.execute(MAKE_SLOT.format(slot).encode())

    def rows(self, table: str) -> Iterator[Row]:
        names = ", ".join(f'"{name}"' for name in TABLES[table])
        rest = f"WHERE name IN {META}" if table == "meta" else ""
        order = "ORDER BY seq" if table in ("job", "done") else ""
        query = f"COPY (SELECT {names} FROM slimq.{table} {rest} {order}) TO STDOUT (FORMAT BINARY)"  # noqa: S608
        with self._guard():
            types = self._types(table)
            with self._db.cursor().copy(query.encode()) as found:
                found.set_types(types)
                yield from found.rows()

    def write(self, table: str, rows: Iterable[Row]) -> None:
        with self._guard():
            if table == "meta":
                for name, value in rows:
                    update = "UPDATE slimq.meta SET value = %s WHERE name = %s"
                    self._db.execute(update, (value, name))
            elif table == "done":
                self._copy(table, map(_with_slot, rows), "slot")
            else:
                self._copy(table, rows)

    def count(self) -> None:
        with self._guard():
            for query in (_COUNT, _NEXT, _SEQUENCES):
                self._db.execute(query.encode())

    def kinds(self) -> Kinds:
        with self._guard():
            return {
                (type_id, kind): count
                for type_id, *counts in self._db.execute(_KINDS)
                for kind, count in zip(KINDS, counts, strict=True)
                if count
            }

    def commit(self) -> None:
        with self._guard():
            self._db.execute("COMMIT")
            for table in ("job", "done", "run", "type"):
                self._db.execute(f"ANALYZE slimq.{table}".encode())

    def close(self) -> None:
        self._db.close()

    def _copy(self, table: str, rows: Iterable[Row], *more: str) -> None:
        columns = ", ".join(f'"{name}"' for name in (*TABLES[table], *more))
        query = f"COPY slimq.{table} ({columns}) FROM STDIN (FORMAT BINARY)"
        types = self._types(table, *more)
        with self._db.cursor().copy(query.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    def _types(self, table: str, *more: str) -> list[str]:
        found = dict(self._db.execute(_COLUMNS, (f"slimq.{table}",)).fetchall())
        return [found[name] for name in (*TABLES[table], *more)]

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(f"the store {self.shown} is too busy: stop its engines first")

    def _lock(self, mode: str, wait_ms: int) -> None:
        tables = sql.SQL(", ").join(self._tables())
        self._db.execute(f"SET LOCAL lock_timeout = {wait_ms}".encode())
        self._db.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(tables, sql.SQL(mode)))

    def _tables(self) -> list[sql.Identifier]:
        return [sql.Identifier("slimq", name) for (name,) in self._db.execute(_TABLES).fetchall()]

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            why = f"the store {self.shown} cannot be used: {said(error, self._url)}"
            raise StoreUnavailable(why) from error


def _with_slot(row: Row) -> Row:
    return (*row, slot_of(row[_ENDED_AT], kind_of(DONE, row[_STATUS])))
