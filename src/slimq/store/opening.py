"""Which store it is: a file, or a PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from slimq.errors import ConfigError
from slimq.store.base import ControlStore, EngineStore
from slimq.store.sqlite import SqliteStore
from slimq.system.chance import Chance
from slimq.system.clock import Clock


class Store(EngineStore, ControlStore, Protocol):
    """All of the contract."""


class News(Protocol):
    """Hints between the nodes of a store, which save them up to a second: that there are
    jobs to run, or that people changed something. `run` is a thread."""

    def run(self) -> None: ...

    def tell(self, what: Literal["jobs", "control"]) -> None:
        """Tell the other nodes soon, if they can be reached. Never waits."""

    def end(self) -> None: ...


def open_store(
    url: str, path: Path, *, clock: Clock, durable: bool, answer_s: float | None = None
) -> Store:
    """Return the store at `url`, or in the file `path` when that is empty; neither is opened
    before it is needed. `durable`: see `SqliteStore`; a PostgreSQL always is. `answer_s`: how
    long a PostgreSQL may be silent.

    Raises ConfigError when the driver is not installed, or the URL malformed.
    """
    if not url:
        return SqliteStore(path, clock=clock, durable=durable)
    try:
        from slimq.store.postgres import PostgresStore
        from slimq.store.postgres_link import ANSWER_S, check_url
    except ImportError as error:
        need = "store.url needs the driver of PostgreSQL: pip install 'slimq[postgres]'"
        raise ConfigError(need) from error
    check_url(url)
    return PostgresStore(url, clock=clock, answer_s=answer_s or ANSWER_S)


def open_news(
    url: str,
    *,
    clock: Clock,
    chance: Chance,
    heard: Callable[[Literal["jobs", "control"]], None],
) -> News | None:
    """Return the news of the store at `url`; None where nodes share a file, and look."""
    if not url:
        return None
    from slimq.store.postgres_news import PostgresNews

    return PostgresNews(url, clock, chance, heard)
