"""What the machine does when nothing but the unavoidable is done: the physical limits.

They run in the process of the benchmark, on the filesystem that the node writes to, in
the same run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any

import apsw

from load import Wire, add, call_all, for_seconds, lines, post

TRANSACTION = 1000  # rows
GROUP = 32  # records of one group commit
RECORD_BYTES = 300  # a record of one line of 100 bytes in the journal is about as long
CONNECTIONS = 32  # to one host, as `run.connections_per_host`
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def append_sync(folder: Path, body: bytes) -> float:
    """Return the seconds of a write and an fdatasync of `body`, at the end of a file."""
    file = os.open(folder / "append", _OPEN, 0o600)
    try:
        return _append(file, body)
    finally:
        os.close(file)


def _append(file: int, body: bytes) -> float:
    start = time.perf_counter()
    view = memoryview(body)
    while view:
        view = view[os.write(file, view) :]
    os.fdatasync(file)
    return time.perf_counter() - start


def group_commit(folder: Path, seconds: float) -> float:
    """Return the records a second when GROUP of them share a write and an fdatasync."""
    records = [b"x" * RECORD_BYTES] * GROUP
    file = os.open(folder / "group", _OPEN, 0o600)
    groups = 0
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        os.writev(file, records)
        os.fdatasync(file)
        groups += 1
    rate = groups * GROUP / (time.perf_counter() - start)
    os.close(file)
    return rate


def bare_server(port: int, body: bytes, seconds: float) -> float:
    """Return the requests a second of the bare server, from the callers of accept_32."""
    request = add("any", body)
    return call_all(port, for_seconds(request, seconds), connections=GROUP).rate


def bare_handler(port: int, target: str, data: bytes, count: int, batch_size: int) -> float:
    """Return the jobs a second of the bare server when the bare callers send them."""
    rows = data.splitlines(keepends=True)[:batch_size]
    request = post(target, b"".join(rows) if batch_size > 1 else rows[0].rstrip(b"\n"))
    requests = repeat(request, max(1, count // batch_size))
    calls = call_all(port, requests, connections=CONNECTIONS, expected=200)
    return calls.rate * batch_size


def spawn_batches(command: Sequence[str], data: bytes, batch_size: int, at_once: int) -> float:
    """Return the jobs a second of the same command with the same batches, `at_once` of
    them at a time, started by posix_spawn on files in memory."""
    rows = data.splitlines(keepends=True)
    start = time.perf_counter()
    running: list[tuple[int, int]] = []
    for first in range(0, len(rows), batch_size):
        if len(running) == at_once:
            _bury(*running.pop(0))
        running.append(_spawn(command, b"".join(rows[first : first + batch_size])))
    for child in running:
        _bury(*child)
    return len(rows) / (time.perf_counter() - start)


def _spawn(command: Sequence[str], stdin: bytes) -> tuple[int, int]:
    given, said = os.memfd_create("stdin"), os.memfd_create("stdout")
    os.write(given, stdin)
    os.lseek(given, 0, os.SEEK_SET)
    actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, said, 1)]
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    child = os.posix_spawnp(command[0], list(command), environment, file_actions=actions)
    os.close(given)
    return child, said


def _bury(child: int, said: int) -> None:
    os.waitpid(child, 0)
    os.lseek(said, 0, os.SEEK_SET)
    answers = os.read(said, 1 << 24).count(b"\n")
    os.close(said)
    assert answers, "the command answered"


class Rows:
    """Rows in SQLite by apsw, TRANSACTION of them at a time, in a table with no more than a
    queue needs: WAL and synchronous=NORMAL, as the store has it."""

    def __init__(self, path: Path) -> None:
        self._db = apsw.Connection(str(path))
        self._db.execute("PRAGMA journal_mode = wal; PRAGMA synchronous = normal")
        self._db.execute(
            "DROP TABLE IF EXISTS job;"
            "CREATE TABLE job (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type_id INTEGER,"
            " dt INTEGER, lock TEXT, attempt INTEGER, status INTEGER, data BLOB) STRICT;"
            "CREATE INDEX job_waiting ON job (type_id, dt) WHERE lock = ''"
        )
        self._count = 0

    def insert(self, rows: Sequence[bytes], type_id: int = 1, per_type: int = 0) -> float:
        """Add jobs, of one type, or `per_type` of each type from `type_id` on; return the
        seconds."""
        start = time.perf_counter()
        for first in range(0, len(rows), TRANSACTION):
            with self._db:
                self._db.executemany(
                    "INSERT INTO job (id, type_id, dt, lock, attempt, data)"
                    " VALUES (?, ?, 0, '', 0, ?)",
                    self._bindings(rows[first : first + TRANSACTION], type_id, first, per_type),
                )
        return time.perf_counter() - start

    def drain(self, count: int) -> float:
        """Claim and finish so many jobs of type 1; return the seconds."""
        start = time.perf_counter()
        for first in range(0, count, TRANSACTION):
            self.finish(self.claim(min(TRANSACTION, count - first)))
        return time.perf_counter() - start

    def claim(self, count: int) -> list[tuple[int, int]]:
        """Lease jobs of type 1 in one transaction; return seq and attempt of each."""
        with self._db:
            rows: Any = self._db.execute(
                "UPDATE job SET lock = 'me', dt = 1, attempt = attempt + 1 WHERE seq IN"
                " (SELECT seq FROM job WHERE type_id = 1 AND lock = '' ORDER BY dt LIMIT ?)"
                " RETURNING seq, attempt, id, data",
                (count,),
            ).fetchall()
        assert len(rows) == count, "so many wait"
        return [(seq, attempt) for seq, attempt, _, _ in rows]

    def finish(self, claimed: list[tuple[int, int]]) -> None:
        """End leased jobs in one transaction."""
        with self._db:
            self._db.executemany(
                "UPDATE job SET lock = '__done', dt = 2, status = 200"
                " WHERE seq = ? AND attempt = ? AND lock = 'me'",
                claimed,
            )

    def close(self) -> None:
        self._db.close()

    def _bindings(
        self, rows: Sequence[bytes], type_id: int, first: int, per_type: int
    ) -> list[tuple[str, int, bytes]]:
        found = []
        for index, row in enumerate(rows, first):
            self._count += 1
            of = type_id + (index // per_type if per_type else 0)
            found.append((f"{self._count:021}", of, row))
        return found


def row_batches(folder: Path, data: bytes) -> float:
    """Return the jobs a second that are inserted, claimed and finished by apsw."""
    rows = data.splitlines()
    with closing(Rows(folder / "rows.db")) as table:
        seconds = table.insert(rows) + table.drain(len(rows))
    return len(rows) / seconds


def calls(source: str, data: bytes) -> float:
    """Return the calls a second of a function's `handler`, in a loop, with the lines of `data`."""
    names: dict[str, Any] = {}
    exec(source, names)  # it is our own
    handler, rows = names["handler"], data.splitlines()
    start = time.perf_counter()
    for row in rows:
        handler(row, None)
    return len(rows) / (time.perf_counter() - start)


class OneByOne:
    """What a lone job cannot do without before its handler starts: a write with fdatasync,
    an insert, a claim, and two ways over loopback (to the node and to the handler), for
    which a round trip stands."""

    def __init__(self, folder: Path, port: int) -> None:
        self._wire = Wire(port)
        self._file = os.open(folder / "one", _OPEN, 0o600)
        self._table = Rows(folder / "one.db")
        self._body = lines(1)
        self._request = add("any", self._body)

    def seconds(self) -> float:
        start = time.perf_counter()
        self._wire.timed(self._request)
        _append(self._file, self._body.ljust(RECORD_BYTES))
        self._table.insert([self._body])
        self._table.claim(1)
        return time.perf_counter() - start

    def close(self) -> None:
        self._wire.close()
        self._table.close()
        os.close(self._file)
