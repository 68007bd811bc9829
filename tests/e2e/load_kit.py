"""Callers that add jobs to a node while it is killed or ended, and know what they were told."""

from __future__ import annotations

import http.client
import random
import threading
import urllib.error

from node_kit import Answer, Node

CALLERS = 8
# What a caller sees of a node that dies, or that is gone.
NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class Caller(threading.Thread):
    """Adds jobs until it is told to stop. Each line says which request it is of, how many
    lines that has, and which of them it is.

    Some requests have an Idempotency-Key and are sent again until they are answered. The
    others that got no answer are `unknown`: they may be in, but as a whole. A caller
    without patience stops at the first request that is not answered.
    """

    def __init__(self, load: Load, name: str, seed: int, *, is_patient: bool) -> None:
        super().__init__(name=name)
        self._load = load
        self._chance = random.Random(seed)
        self._is_patient = is_patient
        self._stopped = threading.Event()
        self.acked: dict[str, bytes] = {}  # id: line
        self.unknown: set[str] = set()
        self.refused: list[Answer] = []
        self.cut: list[BaseException] = []
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                number += 1
                self._send(f"{self.name}-{number}")
        except BaseException as error:
            self.failure = error

    def _send(self, request: str) -> None:
        count = self._chance.choice((1, 1, 2, 10, 40))
        lines = [f"{request} {count} {index}".encode() for index in range(count)]
        key = request if self._chance.random() < 0.3 else ""
        options = "&durability=buffered" if self._chance.random() < 0.3 else ""
        while True:
            self._load.is_up.wait()
            try:
                answer = self._load.node.post("work", lines, options, timeout=20, key=key)
            except NO_ANSWER as error:
                self.cut.append(error)
                if not self._is_patient:
                    self.stop()
                if not key or self._stopped.is_set():
                    self.unknown.add(request)
                    return
            else:
                self._take(answer, lines)
                return

    def _take(self, answer: Answer, lines: list[bytes]) -> None:
        if answer.status == 202:
            assert answer.document["count"] == len(lines)
            self.acked.update(zip(answer.document["ids"], lines, strict=True))
        else:
            self.refused.append(answer)


class Load:
    """Several callers of one node. `is_up` is cleared while the node is down."""

    def __init__(
        self, node: Node, chance: random.Random, name: str = "c", *, is_patient: bool = True
    ) -> None:
        self.node = node
        self.is_up = threading.Event()
        self.is_up.set()
        self.callers = [
            Caller(self, f"{name}{number}", chance.getrandbits(32), is_patient=is_patient)
            for number in range(CALLERS)
        ]
        for caller in self.callers:
            caller.start()

    def acked(self) -> dict[str, bytes]:
        return {id_: line for caller in self.callers for id_, line in list(caller.acked.items())}

    def count(self) -> int:
        return sum(len(caller.acked) for caller in self.callers)

    def end(self) -> None:
        self.is_up.set()
        for caller in self.callers:
            caller.stop()
        self.join()

    def join(self) -> None:
        for caller in self.callers:
            caller.join(60)
        failures = [caller.failure for caller in self.callers if caller.failure]
        assert failures == []
