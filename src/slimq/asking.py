"""The questions of the API to the store: one after the other, in a thread of their own.

None is waited for without an end. While the store does not answer, one question at a time
tries whether it does again; the others are refused at once, with the last reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from slimq.errors import StoreUnavailable
from slimq.store.base import ControlStore, TooSlow

T = TypeVar("T")
ASK_S = 10.0  # longer than any bound of a store itself


class Asker:
    """Used on the event loop only. `thread` is its own."""

    def __init__(
        self, store: ControlStore, thread: ThreadPoolExecutor, *, timeout_s: float = ASK_S
    ) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._thread = thread
        self._asked: set[Future[Any]] = set()  # and not answered
        self._refusal: StoreUnavailable | None = None  # what the last answer was

    async def ask(self, question: Callable[[ControlStore], T]) -> T:
        """Raises what `question` raises, and StoreUnavailable."""
        if self._refusal is not None and self._asked:
            raise type(self._refusal)(self._refusal.detail)
        future = self._thread.submit(self._answer, question)
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)
        except TimeoutError:
            why = f"the store gave no answer within {self._timeout_s:g} s"
            self._refusal = StoreUnavailable(why)
            raise StoreUnavailable(f"{why}; a change may be made all the same") from None

    def close(self) -> None:
        """Wait for what is asked, and close the store."""
        self._thread.shutdown()
        self._store.close()

    def _answer(self, question: Callable[[ControlStore], T]) -> T:
        try:
            answer = question(self._store)
        except TooSlow:  # this question was, the store is well
            raise
        except StoreUnavailable as refusal:
            self._refusal = refusal
            raise
        self._refusal = None
        return answer
