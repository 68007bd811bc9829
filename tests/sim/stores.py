"""The stores that the nodes of a simulation share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from sim.node import SimNode
from sim.parts import SimClock
from slimq.store.memory import MemoryStore
from slimq.store.sqlite import SqliteStore

SHM = Path("/dev/shm")


class MemoryRig:
    """A server with a clock of its own, which may fall back to an earlier point."""

    falls_back = True

    def __init__(self, clock: SimClock) -> None:
        self.store = MemoryStore(clock)
        self._saved: MemoryStore | None = None

    def opener(self, node: SimNode, role: str) -> Callable[[], Any]:
        return lambda: self.store

    def save(self) -> None:
        self._saved = self.store.copy()

    def fall_back(self) -> None:
        assert self._saved is not None, "a copy was made"
        self.store, self._saved = self._saved, None

    def look(self) -> Any:
        return self.store

    def closed(self, node: SimNode) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


class SqliteRig:
    """A file that the nodes of one machine share. A power cut may take it back to the last
    barrier: that is what a WAL with synchronous=NORMAL may lose."""

    falls_back = False

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
        self._path = self._folder / "store.db"
        self._open: dict[tuple[str, str], SqliteStore] = {}
        self._boots = 0
        self._watch: SqliteStore | None = None

    def opener(self, node: SimNode, role: str) -> Callable[[], Any]:
        key = (node.name, role)

        def store() -> SqliteStore:
            if key not in self._open:
                self._open[key] = self._new(durable=role == "api")
            return self._open[key]

        return store

    def look(self) -> Any:
        if self._watch is None:
            self._watch = self._new(durable=False)
        return self._watch

    def closed(self, node: SimNode) -> None:
        for key in [key for key in self._open if key[0] == node.name]:
            self._open.pop(key).close()

    def barrier_made(self) -> None:
        """All is in the file now, and durable."""
        shutil.copyfile(self._path, self._folder / "durable")

    def lose_power(self, chance: Random) -> bool:
        """Return whether it fell back. Nobody has it open but who looks."""
        self._boots += 1
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        assert not self._open, "all nodes are down"
        durable = self._folder / "durable"
        if not durable.exists() or chance.random() < 0.5:
            return False
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (self._folder / name).unlink(missing_ok=True)
        shutil.copyfile(durable, self._path)
        return True

    def close(self) -> None:
        for store in [*self._open.values(), *([self._watch] if self._watch else [])]:
            store.close()
        shutil.rmtree(self._folder)

    def _new(self, *, durable: bool) -> SqliteStore:
        boot = f"boot {self._boots}"
        return SqliteStore(self._path, clock=self._clock, durable=durable, boot=boot, busy_ms=50)
