"""What callers and people do in a simulation."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sim.node import SimNode
from slimq.api.accept_jobs import NewJob
from slimq.api.options import AddOptions, When
from slimq.core.handler import Handler, parse_options
from slimq.errors import SlimqError
from slimq.store.base import Policy

if TYPE_CHECKING:
    from sim.story import Story

CLIENTS = ("acme", "blue", "coda")
BACKOFF = {"backoff": {"min": "1s", "max": "30s"}}
HANDLERS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"batch_size": 10}, {"batch_size": 3, "max_failures": 4}],
    "windowed": [{"batch_size": 20, "batch_window": "2s"}, {"batch_size": 1}],
    "narrow": [{"batch_size": 4, "concurrency": 2}, {"batch_size": 2, "concurrency": 1}],
    "ordered": [{"ordered": True, "max_age": "10m"}, {"ordered": True}],
    "single": [{"batch_size": 1, "timeout": "20s"}, {"batch_size": 1, "timeout": "3m"}],
}
VERBS = (
    *(["ok"] * 30 + ["retry 1", "retry 3", "error 1", "error 2", "fail"] * 2),
    *("children 2", "children 4", "children 1", "mute", "chatty", "garbage", "poison", "half"),
    *("deaf", "killer"),
)
DURATIONS = (0, 0, 5, 40, 200, 1_000, 8_000, 45_000)
DELAYS = (0, 0, 0, 0, 1_500, 40_000, 600_000)
LEVELS = ("journal", "journal", "journal", "buffered", "store")
KEYS_KEPT = 12


def handler_of(jobtype: str, variant: int) -> Handler:
    written = HANDLERS[jobtype][variant] | BACKOFF
    return Handler(
        client="*",
        jobtype=jobtype,
        version=0,
        lang="exec",
        body=["run"],
        options=parse_options("exec", written),
        written=written,
    )


class Traffic:
    """Adds jobs at random nodes, and lets people change things."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._chance = story.world.chance
        self._count = 0
        self._keys: list[tuple[str, str, bytes]] = []  # type, key and body

    # Callers.

    def add(self) -> None:
        node = self._story.any_up()
        if node is None:
            return
        try:
            node.acceptor.check_open()
        except SlimqError:
            self._story.refused += 1
            return
        if self._chance.random() < 0.15:
            self._on(node, lambda: self._add_explicit(node))
        elif self._chance.random() < 0.25:
            self._on(node, lambda: self._add_keyed(node))
        else:
            self._on(node, lambda: self._add_lines(node, self._type(), self._lines(), ""))

    def _on(self, node: SimNode, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let it be done on the loop of a node."""

        def begin() -> None:
            task = node.loop.create_task(work())
            task.add_done_callback(lambda done: None if done.cancelled() else done.result())

        node.loop.call_soon_threadsafe(begin)

    async def _add_lines(self, node: SimNode, type_: str, body: bytes, key: str) -> None:
        story, chance = self._story, self._chance
        when = When(delay_ms=chance.choice(DELAYS))
        level: Any = chance.choice(LEVELS)
        made = node.acceptor.new_body()
        made.feed(body)
        made.finish()
        try:
            accepted = await node.acceptor.accepted(AddOptions(type_, when, level), made, key, "")
        except SlimqError as error:
            story.note_refused(node, error)
            return
        story.acked(node, accepted.ids.ids(), level, accepted.replayed)
        if key:
            story.keyed(type_, key, body, accepted.ids.ids())

    async def _add_keyed(self, node: SimNode) -> None:
        """A new request with a key, or one of the last few again, perhaps at another node."""
        if not self._keys or self._chance.random() < 0.4:
            self._count += 1
            new = (self._type(), f"key {self._count}", self._lines())
            self._keys = [*self._keys[-KEYS_KEPT:], new]
        type_, key, body = self._chance.choice(self._keys)
        await self._add_lines(node, type_, body, key)

    async def _add_explicit(self, node: SimNode) -> None:
        jobs = [
            NewJob(self._type(), When(self._chance.choice(DELAYS)), self._data())
            for _ in range(self._chance.randrange(1, 6))
        ]
        level: Any = self._chance.choice(LEVELS)
        try:
            accepted = await node.jobs_acceptor.accept(jobs, level, "")
        except SlimqError as error:
            self._story.note_refused(node, error)
            return
        self._story.acked(node, accepted.ids, level, False)

    def _type(self) -> str:
        return f"{self._chance.choice(CLIENTS)}/{self._chance.choice(tuple(HANDLERS))}"

    def _lines(self) -> bytes:
        count = self._chance.choice((1, 1, 2, 5, 12, 40))
        return b"".join(self._data() + b"\n" for _ in range(count))

    def _data(self) -> bytes:
        self._count += 1
        ms = self._chance.choice(DURATIONS)
        verb = self._chance.choice(VERBS)
        if verb == "killer" and self._chance.random() < 0.8:
            verb = "ok"
        return f"{verb}|{ms}|{self._count}".encode()

    # People.

    def change(self) -> None:
        node = self._story.any_up()
        if node is not None:
            changes: list[Callable[[], Callable[[Any], Any]]] = [
                *(self._cancel, self._retry, self._put_handler, self._pause, self._delete_handler)
            ]
            change = self._chance.choice(changes)()
            self._on(node, lambda: self._ask(node, change))

    async def _ask(self, node: SimNode, question: Callable[[Any], Any]) -> None:
        try:
            await node.ask(question)
        except SlimqError as error:
            self._story.world.note(f"{node.name} cannot be asked: {type(error).__name__}")
            return
        node.look_again()

    def _some(self) -> list[str]:
        rows = list(self._story.ledger.rows)
        if not rows:
            return []
        ids = self._chance.sample(rows, min(len(rows), self._chance.choice((1, 1, 3))))
        for id_ in ids:
            self._story.runs.by_hand[id_] = 1 << 60
        return ids

    def _cancel(self) -> Callable[[Any], Any]:
        ids = self._some()
        return lambda store: store.cancel(ids)

    def _retry(self) -> Callable[[Any], Any]:
        ids = self._some()
        return lambda store: store.retry(ids)

    def _put_handler(self) -> Callable[[Any], Any]:
        handler = handler_of(self._chance.choice(tuple(HANDLERS)), self._chance.randrange(2))
        return lambda store: store.put_handler(handler)

    def _delete_handler(self) -> Callable[[Any], Any]:
        jobtype = self._chance.choice(tuple(HANDLERS))
        return lambda store: store.delete_handler("*", jobtype)

    def _pause(self) -> Callable[[Any], Any]:
        jobtype = self._chance.choice(tuple(HANDLERS))
        paused = self._chance.random() < 0.4
        policy = Policy(client=self._chance.choice(("*", "acme")), jobtype=jobtype, paused=paused)
        return lambda store: store.put_policy(policy)
