"""A caller that goes on whatever becomes of its node, and knows what it was told."""

from __future__ import annotations

import http.client
import threading
import urllib.error

from node_kit import Node

NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, OSError)


class Adder:
    """Adds lines to one node until told to stop; each line once, never again."""

    def __init__(self, node: Node, name: str, *, pause_s: float) -> None:
        self._node, self._name, self._pause_s = node, name, pause_s
        self._stop = threading.Event()
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()  # no answer came: they may be in or not
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(80)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(self._pause_s):
            lines = [f"{self._name}-{number + each}" for each in range(3)]
            number += 3
            try:
                answer = self._node.post("work", [line.encode() for line in lines])
            except NO_ANSWER:
                self.unknown.update(lines)
            else:
                assert answer.status == 202, answer
                self.acknowledged.update(lines)
