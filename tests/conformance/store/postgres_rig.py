"""A PostgreSQL store for a test: a database of its own, whose clock is told the time."""

from __future__ import annotations

from itertools import count

from clock_kit import FakeClock
from postgres_kit import Server
from slimq.store.postgres import PostgresStore
from slimq.store.postgres_floor import Floors

TEMPLATE = "slimq_template"
_TOLD_CLOCK = """
CREATE TABLE public.told_clock (ms bigint NOT NULL);
INSERT INTO public.told_clock VALUES (0);
CREATE OR REPLACE FUNCTION slimq.now_ms() RETURNS bigint LANGUAGE sql STABLE
  AS 'SELECT ms FROM public.told_clock';
"""
_numbers = count(1)


class PostgresRig:
    """Makes stores that share one new database. Its clock is the wall clock of the start,
    and goes on with the time since boot: nobody steps it."""

    def __init__(self, server: Server, clock: FakeClock) -> None:
        self._server = server
        self.clock = clock
        self._start = clock.wall - clock.boot
        self._name = f"rig_{next(_numbers)}"
        self.url = server.create_database(self._name, template=_template(server))
        self.db = server.connect(self._name)
        self.db.execute("SET jit = off")  # it would cost more than it gains
        self._tell()
        clock.watchers.append(self._tell)

    def store(self, floors: Floors | None = None) -> PostgresStore:
        return PostgresStore(self.url, clock=self.clock, floors=floors)

    def close(self) -> None:
        self.clock.watchers.remove(self._tell)
        self.db.close()
        self._server.drop_database(self._name)

    def _tell(self) -> None:
        now = self._start + self.clock.boot
        self.db.execute("UPDATE public.told_clock SET ms = %s", (now,))


def _template(server: Server) -> str:
    """Return the name of a database with the schema, made at the first call."""
    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    if not server.execute(query, TEMPLATE):
        store = PostgresStore(server.create_database(TEMPLATE), clock=FakeClock())
        store.now()
        store.close()
        server.execute(_TOLD_CLOCK, database=TEMPLATE)
    return TEMPLATE
