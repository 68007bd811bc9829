"""Callers that wait leave nothing behind when they give up."""

from __future__ import annotations

import asyncio
import gc

import pytest

from slimq.api.waiting import SafeWatch
from slimq.journal.record import Position


def futures_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, asyncio.Future) for thing in gc.get_objects())


def test_callers_that_gave_up_while_the_store_was_down_take_no_memory() -> None:
    async def wait() -> None:
        watch = SafeWatch()
        before = futures_alive()
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await watch.reached(Position(1, 1), 0)
        assert futures_alive() <= before + 1
        assert not watch.reach(Position())

    asyncio.run(wait())


def test_who_waits_for_more_is_not_told_and_asks_for_another_barrier() -> None:
    async def wait() -> list[bool]:
        watch = SafeWatch()
        first = asyncio.create_task(watch.reached(Position(1, 10), 10))
        second = asyncio.create_task(watch.reached(Position(1, 20), 10))
        await asyncio.sleep(0)
        answers = [watch.reach(Position(1, 10))]
        await first
        answers += [second.done(), watch.reach(Position(2, 0))]
        await second
        return answers

    assert asyncio.run(wait()) == [True, False, False]
