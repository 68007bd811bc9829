from __future__ import annotations

import pytest

from slimq.api.surface import AppBody, Deadlines, Surface
from slimq.core.limits import JSON_BODIES_MAX, JSON_BODY_MAX
from slimq.errors import BodyTooLarge, OperatorError

CHUNK = b"x" * (1 << 20)


def surface_alone() -> Surface:
    return Surface(heads=None, intake=None, deadlines=Deadlines(), connections_max=1)


def fill(surface: Surface, size: int) -> AppBody:
    body = AppBody(surface, 0)
    for _ in range(size // len(CHUNK)):
        body.feed(CHUNK)
    return body


def test_all_bodies_on_their_way_to_the_app_are_bounded_together():
    surface = surface_alone()
    bodies = [fill(surface, JSON_BODY_MAX) for _ in range(JSON_BODIES_MAX // JSON_BODY_MAX)]
    late = AppBody(surface, 0)
    with pytest.raises(OperatorError) as caught:
        late.feed(b"x")
    assert caught.value.status == 503
    late.discard()
    bodies.pop().discard()
    assert len(bodies.pop().take()) == JSON_BODY_MAX
    again = fill(surface, JSON_BODY_MAX)
    for body in (*bodies, again):
        body.discard()
        body.discard()
    assert surface.buffered == 0


def test_one_body_is_bounded_by_what_it_says_and_by_what_arrives():
    surface = surface_alone()
    with pytest.raises(BodyTooLarge):
        AppBody(surface, JSON_BODY_MAX + 1)
    body = fill(surface, JSON_BODY_MAX)
    with pytest.raises(BodyTooLarge):
        body.feed(b"x")
