"""Which store it is: a file, or a PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from slimq.errors import ConfigError
from slimq.store.base import ControlStore, EngineStore
from slimq.store.sqlite import SqliteStore
from slimq.system.clock import Clock


class Store(EngineStore, ControlStore, Protocol):
    """All of the contract."""


def open_store(url: str, path: Path, *, clock: Clock, durable: bool) -> Store:
    """Return the store at `url`, or in the file `path` when that is empty; neither is opened
    before it is needed. `durable`: see `SqliteStore`; a PostgreSQL always is.

    Raises ConfigError when the driver is not installed.
    """
    if not url:
        return SqliteStore(path, clock=clock, durable=durable)
    try:
        from slimq.store.postgres import PostgresStore
    except ImportError as error:
        need = "store.url needs the driver of PostgreSQL: pip install 'slimq[postgres]'"
        raise ConfigError(need) from error
    return PostgresStore(url, clock=clock)
