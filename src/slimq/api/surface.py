"""What the connections of a server share, and the bodies that they keep for the app."""

from __future__ import annotations

from typing import NamedTuple

from slimq.api.add import AddIntake
from slimq.api.head import HeadReader
from slimq.core.limits import (
    BODY_IDLE_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    JSON_BODIES_MAX,
    JSON_BODY_MAX,
    KEEP_ALIVE_S,
    LINGER_S,
)
from slimq.errors import BodyTooLarge, OperatorError, SlimqError


class Deadlines(NamedTuple):
    """How long a connection may take, in seconds."""

    header_s: float = HEADER_TIMEOUT_S
    body_idle_s: float = BODY_IDLE_TIMEOUT_S
    keep_alive_s: float = KEEP_ALIVE_S
    linger_s: float = LINGER_S


class Surface:
    """What all connections of a server share."""

    def __init__(
        self, heads: HeadReader, intake: AddIntake, deadlines: Deadlines, connections_max: int
    ) -> None:
        self.heads = heads
        self.intake = intake
        self.deadlines = deadlines
        self.connections_max = connections_max
        self.draining = False
        self.buffered = 0  # bytes of all bodies that are on their way to the app


class AppBody:
    """A body for the app, in memory."""

    def __init__(self, surface: Surface, length: int) -> None:
        self._surface = surface
        self._data = bytearray()
        if length > JSON_BODY_MAX:
            raise _too_large()

    def feed(self, data: bytes) -> None:
        self._data += data
        self._surface.buffered += len(data)
        if len(self._data) > JSON_BODY_MAX:
            raise _too_large()
        if self._surface.buffered > JSON_BODIES_MAX:
            raise OperatorError("too many large requests at a time")

    def take(self) -> bytes:
        data = bytes(self._data)
        self.discard()
        return data

    def discard(self) -> None:
        self._surface.buffered -= len(self._data)
        self._data.clear()


def _too_large() -> SlimqError:
    return BodyTooLarge(f"the body of this route has at most {JSON_BODY_MAX} bytes")
