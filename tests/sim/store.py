"""The store as the nodes of a simulation see it: the real one behind a network that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slimq.errors import StoreUnavailable
from slimq.store.base import StoreFull

if TYPE_CHECKING:
    from sim.node import SimNode

SLOW_MS = (20, 300, 2_000, 9_000, 45_000)


class FaultyStore:
    """One connection of one node. A call may fail before it is made, or made and its answer
    lost; it may take long on the way there or back; the node may die on either side of it."""

    def __init__(self, node: SimNode, inner: Callable[[], Any]) -> None:
        self._node = node
        self._world = node.world
        self._inner = inner
        self._link = node.sim.links

    def now(self) -> int:
        now: int = self._inner().now()
        return now

    def close(self) -> None:
        """The story closes the real one."""

    def check(self) -> None:
        """It can always be used, some time."""

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        setattr(self, name, call)
        return call

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self._node
        process = node.process
        node.may_crash()
        trouble = node.store_trouble
        if node.is_cut_off:
            process.hit_at = self._world.now
            raise StoreUnavailable(f"down for {name}")
        if self._link != node.sim.links:
            self._link = node.sim.links
            self._fail("link cut", name)
        if trouble and node.chance.random() < trouble:
            self._go_wrong(name)
        inner = self._inner()
        result = getattr(inner, name)(*args, **kwargs)
        node.sim.witness.observe(node, inner, name, args, kwargs, result)
        node.may_crash()
        if trouble and node.chance.random() < trouble:
            self._go_wrong(name, after=True)
        self._world.check_alive(process)
        return result

    def _go_wrong(self, name: str, after: bool = False) -> None:
        chance = self._node.chance.random()
        when = "answer" if after else "call"
        if chance < 0.4 and not (after and self._node.answers_arrive):
            self._fail(f"{when} lost", name)
        elif chance < 0.45 and not after:
            self._node.hit("store full", name)
            raise StoreFull(f"planted in {name}")
        else:
            ms = SLOW_MS[int(len(SLOW_MS) * self._node.chance.random() ** 3)]
            self._node.hit("store slow", f"{name} {ms}")
            self._world.wait(ms)

    def _fail(self, kind: str, name: str) -> None:
        self._node.hit(f"store {kind}", name)
        raise StoreUnavailable(f"planted in {name}")
