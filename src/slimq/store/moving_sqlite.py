"""A SQLite file as one end of a move. It is read without the store's own code, which would
make a file that is missing, and set its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import apsw

from slimq.core.lifecycle import DONE_SHIFT_MS
from slimq.errors import StoreUnavailable
from slimq.store.counts import KINDS
from slimq.store.moving import META, TABLES, Kinds, Row, closed_text, not_empty
from slimq.store.sqlite_clock import boot_id
from slimq.store.sqlite_ingest import INLINE_MAX
from slimq.system.clock import Clock

BUSY_MS = 10_000
DAY_MS = 86_400_000
BATCH = 500  # rows; each at most as large as a line may be
CACHE_KIB = 64 * 1024
# `meta` may be written still: a store that is read sets its clock after a boot of the machine.
CLOSED_TABLES = tuple(table for table in (*TABLES, "large") if table not in ("meta", "done"))
_VERBS = ("INSERT", "UPDATE", "DELETE")
_TRIGGERS = (
    "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'closed\\_%' ESCAPE '\\'"
)
_HELD = "SELECT count(*) FROM job WHERE lock <> '' AND lock <> '__done' AND dt > ?"
_KINDS = "SELECT type_id, waiting, running, ok, failed, error FROM type"
_COUNT = """
UPDATE type SET waiting = c.waiting, running = c.running, ok = c.ok, failed = c.failed,
  error = c.error, next_dt = c.next_dt
FROM (SELECT type_id, sum(lock = '') AS waiting,
  sum(lock <> '' AND lock <> '__done') AS running,
  sum(lock = '__done' AND status < 300) AS ok,
  sum(lock = '__done' AND status BETWEEN 300 AND 499) AS failed,
  sum(lock = '__done' AND status > 499) AS error,
  min(CASE WHEN lock = '' THEN dt END) AS next_dt FROM job GROUP BY type_id) AS c
WHERE type.type_id = c.type_id
"""
_DAY = f"(dt - {DONE_SHIFT_MS}) / {DAY_MS} * 2"
_SLOTS = f"""
SELECT DISTINCT {_DAY} FROM job WHERE lock = '__done' AND status < 300
UNION ALL SELECT DISTINCT {_DAY} + 1 FROM job WHERE lock = '__done' AND status >= 300
"""  # noqa: S608
_INDEXES = "SELECT name, sql FROM sqlite_schema WHERE tbl_name = 'job' AND type = 'index'"


class SqliteEnd:
    """Keeps `moving.End`. `boot` names the boot that the clock's `boot_ms` counts from."""

    def __init__(self, path: Path, clock: Clock, *, boot: str | None = None) -> None:
        self.shown = str(path.absolute())
        self._clock = clock
        self._boot = boot_id() if boot is None else boot
        with self._guard():
            self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            self._db.set_busy_timeout(BUSY_MS)
            self._db.pragma("synchronous", "FULL")
            self._db.pragma("cache_size", -CACHE_KIB)

    def closed_for(self) -> str:
        with self._guard():
            if self._db.execute(_TRIGGERS).get is None:
                return ""
            return str(self._db.execute("SELECT value FROM meta WHERE name = 'moved_to'").get)

    def close_for(self, target: str) -> int:
        said = closed_text(target).replace("'", "''")
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            held = int(self._db.execute(_HELD, (self._now(),)).get)
            if not held and not self.closed_for():
                self._db.execute("REPLACE INTO meta VALUES ('moved_to', ?)", (target,))
                for table in CLOSED_TABLES:
                    for verb in _VERBS:
                        self._db.execute(
                            f"CREATE TRIGGER closed_{table}_{verb} BEFORE {verb} ON {table} "
                            f"BEGIN SELECT RAISE(ABORT, '{said}'); END"
                        )
            self._db.execute("COMMIT")
            return held

    def reopen(self) -> None:
        with self._guard():
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            for (name,) in self._db.execute(_TRIGGERS).fetchall():
                self._db.execute(f"DROP TRIGGER {name}")
            self._db.execute("DELETE FROM meta WHERE name = 'moved_to'")
            self._db.execute("COMMIT")

    def size(self) -> int:
        with self._guard():
            query = "SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM run)"
            return int(self._db.execute(query).get)

    def begin_read(self) -> None:
        with self._guard():
            self._db.execute("BEGIN")

    def begin_write(self) -> None:
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            for table in TABLES:
                name = "job" if table == "done" else table
                query = f"SELECT EXISTS (SELECT 1 FROM {name})"  # noqa: S608
                if table != "meta" and self._db.execute(query).get:
                    raise not_empty(self.shown, table)
            # Sorting all at the end costs less than to find the place of each.
            found = self._db.execute(_INDEXES).fetchall()
            self._indexes = [str(sql) for _, sql in found]
            for index, _ in found:
                self._db.execute(f"DROP INDEX {index}")

    def slots(self) -> list[int]:
        with self._guard():
            found = [slot for (slot,) in self._db.execute(_SLOTS)]
            return sorted(found, reverse=True)

    def make_slots(self, slots: list[int]) -> None:
        """A file has none."""

    def rows(self, table: str) -> Iterator[Row]:
        with self._guard():
            rows = self._db.execute(_READ[table])
            yield from map(_FROM_FILE[table], rows) if table in _FROM_FILE else rows

    def write(self, table: str, rows: Iterable[Row]) -> None:
        source = iter(rows)
        with self._guard():
            while batch := list(islice(source, BATCH)):
                if table in ("job", "done"):
                    self._write_large(batch)
                self._db.executemany(_WRITE[table], batch)

    def _write_large(self, batch: list[Row]) -> None:
        """Put large data apart; the rows keep none."""
        large = [(row[0], row[-1]) for row in batch if len(row[-1]) > INLINE_MAX]
        if large:
            self._db.executemany("INSERT INTO large (seq, data) VALUES (?, ?)", large)
            batch[:] = [(*row[:-1], None) if len(row[-1]) > INLINE_MAX else row for row in batch]

    def count(self) -> None:
        with self._guard():
            for sql in self._indexes:
                self._db.execute(sql)
            self._db.execute(_COUNT)

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
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        self._db.close(force=True)

    def _now(self) -> int:
        """Return the store's time. After a boot no lease holds."""
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        if meta.get("boot_id") != self._boot:
            return 1 << 62
        return int(meta["clock_offset"]) + self._clock.boot_ms()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise StoreUnavailable(f"the store {self.shown} cannot be used: {error}") from error


def _names(table: str) -> str:
    return ", ".join(TABLES[table])


def _read(table: str) -> str:
    source = table
    names = _names(table)
    rest = ""
    if table == "meta":
        rest = f"WHERE name IN {META}"
    elif table in ("job", "done"):
        source = "job LEFT JOIN large USING (seq)"
        names = names.replace("data", "coalesce(job.data, large.data)")
        names = names.replace("ended_at", f"dt - {DONE_SHIFT_MS}")
        rest = f"WHERE lock {'=' if table == 'done' else '<>'} '__done' ORDER BY seq"
    return f"SELECT {names} FROM {source} {rest}"  # noqa: S608


def _write(table: str) -> str:
    if table == "meta":
        return "REPLACE INTO meta (name, value) VALUES (?, ?)"
    names = _names(table)
    marks = ", ".join("?" for _ in TABLES[table])
    if table == "done":
        names = names.replace("ended_at", "dt") + ", lock"
        marks = marks.replace("?, ?", f"?, ? + {DONE_SHIFT_MS}", 1) + ", '__done'"
    name = "job" if table == "done" else table
    return f"INSERT INTO {name} ({names}) VALUES ({marks})"  # noqa: S608


_READ = {table: _read(table) for table in TABLES}
_WRITE = {table: _write(table) for table in TABLES}


def _without_nul(table: str) -> Callable[[Row], Row]:
    """PostgreSQL has no NUL in a text, and what a handler said of an error may hold one."""
    place = TABLES[table].index("error")

    def clean(row: Row) -> Row:
        text = row[place]
        if text is None or "\0" not in text:
            return row
        return (*row[:place], text.replace("\0", "\N{REPLACEMENT CHARACTER}"), *row[place + 1 :])

    return clean


def _with_bool(row: Row) -> Row:
    client, jobtype, paused, *rest = row
    return (client, jobtype, None if paused is None else bool(paused), *rest)


_FROM_FILE = {
    "done": _without_nul("done"),
    "run": _without_nul("run"),
    "policy": _with_bool,
}
