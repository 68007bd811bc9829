"""News between nodes that share a PostgreSQL: what one has changed, others look at now.

All of it is a hint, told by NOTIFY, that saves up to a second. Nothing depends on it: a
transaction-pooling PgBouncer swallows it, and what is said while a connection is down is
not heard. It has a connection and a thread of its own, so that nobody waits for either.

A commit that notifies holds a lock of the whole server until it is over. So there is one
in 20 ms at most, for all nodes and applications together (`slimq.tell`); what is passed
over meanwhile is found because listeners look once more when that time is over.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any, Literal

import psycopg

from slimq.store.postgres_link import connect
from slimq.system.chance import Chance
from slimq.system.clock import Clock

News = Literal["jobs", "control"]
CHANNEL = "slimq"
TELL_EVERY_MS = 20  # the same in slimq.tell
AGAIN_MS = 2 * TELL_EVERY_MS  # the second look: what was passed over is committed by then
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 10.0
_TELL = "SELECT set_config('synchronous_commit', 'off', true), slimq.tell(%s)"


class PostgresNews:
    """`run` is a thread, and calls `heard` with what other nodes say; all else may be
    called by any."""

    def __init__(
        self, url: str, clock: Clock, chance: Chance, heard: Callable[[News], None]
    ) -> None:
        self._url = url
        self._clock = clock
        self._chance = chance
        self._heard = heard
        self._ended = threading.Event()
        self._untold: set[News] = set()
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def tell(self, what: News) -> None:
        """Tell the others soon, if they can be reached."""
        if what not in self._untold:
            self._untold.add(what)
            os.eventfd_write(self._signal, 1)

    def end(self) -> None:
        """Let `run` return."""
        self._ended.set()
        os.eventfd_write(self._signal, 1)

    def run(self) -> None:
        pause = PAUSE_MIN_S
        while not self._ended.is_set():
            begun = self._clock.boot_ms()
            try:
                with self._connect() as db:
                    self._talk(db)
            except psycopg.Error:  # the engine says what is wrong with the store
                self._untold.clear()
            if self._clock.boot_ms() - begun > PAUSE_MAX_S * 1000:
                pause = PAUSE_MIN_S
            self._ended.wait(pause * (0.5 + self._chance.uniform()))
            pause = min(pause * 2, PAUSE_MAX_S)

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._url, prepare_threshold=None)

    def _talk(self, db: psycopg.Connection[Any]) -> None:
        """Listen and tell until the end, or until the connection breaks."""
        db.execute(f"LISTEN {CHANNEL}")
        self._heard("control")  # what was said before was not heard
        ready = select.poll()
        ready.register(db.fileno(), select.POLLIN)
        ready.register(self._signal, select.POLLIN)
        again_at = tell_at = 0
        while not self._ended.is_set():
            now = self._clock.boot_ms()
            waits = [again_at - now] if again_at else []
            waits += [tell_at - now] if self._untold else []
            ready.poll(max(0, min(waits)) if waits else None)
            self._drain_signal()
            now = self._clock.boot_ms()
            if self._untold and now >= tell_at:
                self._tell_now(db)
                tell_at = self._clock.boot_ms() + TELL_EVERY_MS
            if self._listen(db):
                again_at = now + AGAIN_MS
            elif again_at and now >= again_at:
                again_at = 0
                self._heard("jobs")

    def _tell_now(self, db: psycopg.Connection[Any]) -> None:
        for what in sorted(self._untold):
            self._untold.discard(what)  # first: what is said from now on is told again
            db.execute(_TELL, (what,))

    def _listen(self, db: psycopg.Connection[Any]) -> bool:
        """Pass on what others said; return whether they said anything."""
        own = db.info.backend_pid
        said = {note.payload for note in db.notifies(timeout=0) if note.pid != own}
        for what in sorted(said):
            self._heard("control" if what == "control" else "jobs")
        return bool(said)

    def _drain_signal(self) -> None:
        try:
            os.eventfd_read(self._signal)
        except BlockingIOError:
            return
