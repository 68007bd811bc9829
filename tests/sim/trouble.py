"""The faults of a simulation: each begins some time, and most end again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.disk import CAPACITY
from sim.node import RETAIN_MS, SimNode

if TYPE_CHECKING:
    from sim.story import Story

STEP_MS = 3_600_000
MEAN_MS = (20_000, 60_000, 200_000)


class Trouble:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._world = story.world
        self._chance = story.world.chance
        self._mean_ms = self._chance.choice(MEAN_MS)
        self._over = False
        self._kinds: list[Callable[[SimNode], None]] = [
            *(self.crash_at_a_call, self.crash_at_a_call, self.power_cut, self.pause, self.quit),
            *(self.store_down, self.cut_off, self.flaky_store, self.flaky_store, self.fall_back),
            *(self.step_of_the_clock, self.slow_disk, self.failing_disk, self.failing_disk),
            *(self.full_disk, self.stop_and_start, self.unreadable_disk),
        ]

    def begin(self) -> None:
        self._world.at(self._after(), "trouble", self._next)

    def _after(self) -> int:
        return 1 + int(self._chance.expovariate(1 / self._mean_ms))

    def _next(self) -> None:
        if not self._over:
            self._chance.choice(self._kinds)(self._chance.choice(self._story.nodes))
            self._world.at(self._after(), "trouble", self._next)

    def end(self) -> None:
        """Heal everything."""
        self._over = True
        story = self._story
        story.store_down = False
        for node in story.nodes:
            node.store_trouble = node.write_trouble = node.read_trouble = 0.0
            node.slow_sync_ms = node.disk.fill = 0
            node.disk.short = node.cut_off = False
            node.process.crash_in = node.process.stopped_until = 0
            if node.up:
                node.engine.stopped = False
                node.engine.wake()

    def _for_a_while(self, name: str, most_ms: int, heal: Callable[[], None]) -> None:
        self._world.at(1 + int(most_ms * self._chance.random() ** 2), f"{name} is over", heal)

    # The process.

    def crash_at_a_call(self, node: SimNode) -> None:
        if node.process.alive:
            node.process.crash_in = self._chance.choice((1, 3, 10, 40, 150))
            node.process.power_cut_next = self._chance.random() < 0.3

    def power_cut(self, node: SimNode) -> None:
        if node.process.alive:
            self._story.cut_power(node)

    def pause(self, node: SimNode) -> None:
        if node.process.alive:
            ms = self._chance.choice((3_000, 12_000, 28_000, 33_000, 120_000))
            node.hit("stop and continue", str(ms))
            node.process.stopped_until = self._world.now + ms
            process = node.process

            def hit() -> None:
                process.hit_at = self._world.now

            self._world.at(ms, "continues", hit)

    def quit(self, node: SimNode) -> None:
        node.quit()

    def stop_and_start(self, node: SimNode) -> None:
        if node.up:
            node.hit("engine stopped")
            node.engine.stopped = True
            engine = node.engine

            def go_on() -> None:
                engine.stopped = False
                engine.wake()

            self._for_a_while("stop", 300_000, go_on)

    def step_of_the_clock(self, node: SimNode) -> None:
        node.clock.skew_ms = self._chance.choice((0, 0, self._chance.randint(-STEP_MS, STEP_MS)))
        node.hit("clock step", str(node.clock.skew_ms))

    # The store.

    def store_down(self, node: SimNode) -> None:
        story = self._story
        self._world.fault("store down")
        story.store_down = True

        def heal() -> None:
            story.store_down = False

        self._for_a_while("store down", 300_000, heal)

    def cut_off(self, node: SimNode) -> None:
        node.hit("cut off")
        node.cut_off = True

        def heal() -> None:
            node.cut_off = False

        self._for_a_while("cut off", 200_000, heal)

    def flaky_store(self, node: SimNode) -> None:
        node.store_trouble = self._chance.choice((0.01, 0.05, 0.3))

        def heal() -> None:
            node.store_trouble = 0.0

        self._for_a_while("flaky store", 120_000, heal)

    def fall_back(self, node: SimNode) -> None:
        story = self._story
        if not story.rig.falls_back or self._saved:
            return
        self._saved = True
        story.save_store()

        def back() -> None:
            self._saved = False
            if not self._over:
                story.fall_back()

        self._for_a_while("before the store falls back", RETAIN_MS - 60_000, back)

    _saved = False

    # The disk.

    def slow_disk(self, node: SimNode) -> None:
        node.slow_sync_ms = self._chance.choice((100, 3_000, 40_000))

        def heal() -> None:
            node.slow_sync_ms = 0

        self._for_a_while("slow disk", 60_000, heal)

    def failing_disk(self, node: SimNode) -> None:
        node.write_trouble = self._chance.choice((0.02, 0.2, 1.0))
        node.disk.short = self._chance.random() < 0.3

        def heal() -> None:
            node.write_trouble = 0.0
            node.disk.short = False

        self._for_a_while("failing disk", 60_000, heal)

    def unreadable_disk(self, node: SimNode) -> None:
        node.read_trouble = self._chance.choice((0.05, 1.0))

        def heal() -> None:
            node.read_trouble = 0.0

        self._for_a_while("unreadable disk", 40_000, heal)

    def full_disk(self, node: SimNode) -> None:
        node.hit("disk full")
        node.disk.fill = CAPACITY - self._chance.choice((0, 1 << 20)) + node.disk.free_now()

        def heal() -> None:
            node.disk.fill = 0

        self._for_a_while("full disk", 120_000, heal)
