"""The connections of a node to its store: one for each thread that uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from slimq.asking import Asker
from slimq.config import Config
from slimq.store.opening import Store, open_store
from slimq.system.clock import Clock

API_ANSWER_S = 5.0  # a caller should not wait as long as the engine does


class Connections:
    """`engine` is that of the engine's thread, `finish` the one that runs are recorded with, on
    `finish_thread`; with a file it is the engine's, and there is no such thread: a file takes one
    writer at a time. `asker` has a thread of its own."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.engine = connect(config, clock, durable=False)
        self.finish = self.engine
        self.finish_thread: ThreadPoolExecutor | None = None
        if config.store.url:
            self.finish = connect(config, clock, durable=False)
            self.finish_thread = ThreadPoolExecutor(1, "finish")
        self.asker = Asker(
            connect(config, clock, durable=True, answer_s=API_ANSWER_S),
            ThreadPoolExecutor(1, "api-store"),
        )

    def close(self) -> None:
        self.asker.close()
        if self.finish_thread is not None:
            self.finish_thread.shutdown()
            self.finish.close()
        self.engine.close()


def connect(config: Config, clock: Clock, *, durable: bool, answer_s: float | None = None) -> Store:
    """See `open_store`."""
    url, path = config.store.url, config.store_path
    return open_store(url, path, clock=clock, durable=durable, answer_s=answer_s)
