"""What a PostgreSQL does when nothing but the unavoidable is done: its own limits."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

BATCH = 1000
_TABLE = """
DROP TABLE IF EXISTS bare;
CREATE TABLE bare (seq bigserial, id text COLLATE "C" PRIMARY KEY, type_id int NOT NULL,
  dt bigint NOT NULL, lock text COLLATE "C" NOT NULL DEFAULT '', data bytea NOT NULL);
CREATE INDEX bare_waiting ON bare (type_id, dt, seq) WHERE lock = '';
"""
_TAKE = """
WITH found AS MATERIALIZED (
  SELECT ctid FROM bare WHERE type_id = 1 AND lock = '' ORDER BY dt, seq LIMIT %s
  FOR UPDATE SKIP LOCKED)
DELETE FROM bare USING found WHERE bare.ctid = found.ctid RETURNING bare.id, bare.data
"""


class Bare:
    """A table with no more than a queue needs, in a database of its own."""

    def __init__(self, url: str) -> None:
        self._db = psycopg.connect(url, autocommit=True)
        self._db.execute(_TABLE.encode())

    def copy(self, rows: Sequence[bytes]) -> float:
        """Add rows by COPY; return how many a second."""
        start = time.perf_counter()
        into = "COPY bare (id, type_id, dt, data) FROM STDIN (FORMAT binary)"
        with self._db.cursor() as cursor, cursor.copy(into) as copy:
            copy.set_types(["text", "int4", "int8", "bytea"])
            for number, row in enumerate(rows):
                copy.write_row((f"{number:021}", 1, 0, row))
        return len(rows) / (time.perf_counter() - start)

    def drain(self) -> float:
        """Claim and delete all rows in batches; return how many a second."""
        start = time.perf_counter()
        count = 0
        while rows := self._db.execute(_TAKE, (BATCH,)).fetchall():
            count += len(rows)
        return count / (time.perf_counter() - start)

    def close(self) -> None:
        self._db.close()
