"""What becomes of a request that adds jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache

import msgspec

from slimq.api.options import Durability
from slimq.api.problem import JSON_TYPE, TEXT_TYPE, Headers
from slimq.core.jobid import IdBlock
from slimq.errors import SlimqError


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Jobs that are accepted: the first of their ids and all of them, the level of
    durability that is reached, and whether they were there before, from an earlier
    request with the same key."""

    first: str
    ids: IdBlock
    durability: Durability
    replayed: bool = False


Outcome = Accepted | SlimqError
Done = Callable[[Outcome], None]


@lru_cache
def accepted_headers(durability: Durability, replayed: bool, text: bool) -> Headers:
    """Return what answers to accepted jobs share."""
    headers = [("content-type", TEXT_TYPE if text else JSON_TYPE), ("slimq-durability", durability)]
    if replayed:
        headers.append(("slimq-replayed", "true"))
    return tuple(headers)


def tell(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    """Be the `done` of one who waits for `future`."""
    if not future.done():  # who waited may be gone
        future.set_result(outcome)
