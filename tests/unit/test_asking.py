"""Questions to a store that does not answer are not waited for, and those that wait are few."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from clock_kit import FakeClock
from slimq.asking import Asker
from slimq.errors import StoreTooNew, StoreUnavailable
from slimq.store.base import ControlStore, TooSlow
from slimq.store.memory import MemoryStore


class Gate:
    """A question that is answered, or refused, when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.open = threading.Event()
        self.begun = threading.Event()

    def __call__(self, store: ControlStore) -> str:
        self.begun.set()
        assert self.open.wait(10)
        if self._error is not None:
            raise self._error
        return "answer"


@asynccontextmanager
async def asking(timeout_s: float = 10) -> AsyncIterator[Asker]:
    asker = Asker(MemoryStore(FakeClock()), ThreadPoolExecutor(1), timeout_s=timeout_s)
    try:
        yield asker
    finally:
        asker.close()


def fails(error: Exception) -> Callable[[ControlStore], None]:
    def question(_: ControlStore) -> None:
        raise error

    return question


def test_while_the_store_is_down_one_tries_and_the_others_are_refused_at_once() -> None:
    async def scenario() -> None:
        async with asking() as asker:
            with pytest.raises(StoreTooNew):
                await asker.ask(fails(StoreTooNew("it is newer")))
            gate = Gate()
            trying = asyncio.create_task(asker.ask(gate))
            await asyncio.sleep(0)
            with pytest.raises(StoreTooNew, match="it is newer"):
                await asker.ask(lambda store: "never asked")
            gate.open.set()
            assert await trying == "answer"
            assert await asker.ask(lambda store: store.totals().waiting) == 0

    asyncio.run(scenario())


def test_while_the_store_answers_questions_wait_for_each_other() -> None:
    async def scenario() -> None:
        async with asking() as asker:
            gate = Gate()
            both = asyncio.gather(asker.ask(gate), asker.ask(lambda store: "second"))
            await asyncio.to_thread(gate.begun.wait)
            gate.open.set()
            assert await both == ["answer", "second"]

    asyncio.run(scenario())


def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with asking(timeout_s=0.05) as asker:
            gate = Gate()
            with pytest.raises(StoreUnavailable, match="no answer"):
                await asker.ask(gate)
            with pytest.raises(StoreUnavailable, match="no answer"):
                await asker.ask(lambda store: "never asked")
            gate.open.set()

    asyncio.run(scenario())


def test_a_question_that_is_too_slow_says_nothing_about_the_next_ones() -> None:
    async def scenario() -> None:
        async with asking() as asker:
            with pytest.raises(TooSlow):
                await asker.ask(fails(TooSlow("narrow it")))
            gate = Gate()
            both = asyncio.gather(asker.ask(gate), asker.ask(lambda store: "second"))
            gate.open.set()
            assert await both == ["answer", "second"]

    asyncio.run(scenario())
