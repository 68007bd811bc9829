"""What a simulated node is made of, where the real one has clocks, chance and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any

from sim.world import World
from slimq.journal.append import Append
from slimq.journal.commit import GroupCommit


class SimChance:
    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def uniform(self) -> float:
        return self._chance.random()

    def token(self, size: int) -> bytes:
        return self._chance.randbytes(size)


class SimClock:
    """The clocks of a machine: its boot time, and a wall clock that people step."""

    def __init__(self, world: World, start_ms: int, booted_ms: int) -> None:
        self._world = world
        self._start_ms = start_ms
        self._booted_ms = booted_ms
        self.skew_ms = 0

    def wall_ms(self) -> int:
        return self._start_ms + self.skew_ms + self._world.now

    def boot_ms(self) -> int:
        return self._booted_ms + self._world.now


class Bell(threading.Event):
    """Wakes an actor when it is set."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def set(self) -> None:
        super().set()
        self._wake()


class WakingCommit(GroupCommit):
    """Wakes its actor when something is submitted."""

    wake: Callable[[], None]

    def submit(self, *appends: Append) -> None:
        super().submit(*appends)
        self.wake()


class ApiThread(ThreadPoolExecutor):
    """Answers what the API asks the store, as an actor."""

    def __init__(self) -> None:
        self._asked: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.wake: Callable[[], None] = lambda: None

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._asked.append((future, lambda: function(*args, **kwargs)))
        self.wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._asked.clear()

    def turn(self) -> int | None:
        if not self._asked:
            return None
        future, answer = self._asked.pop(0)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(answer())
            except Exception as error:
                future.set_exception(error)
        return 0 if self._asked else None
