"""Queries and JSON bodies, bounded: what is not known is refused, and names what is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request

from slimq.api.options import AT_RULE, parse_at, read_parameters
from slimq.core.jobid import is_id
from slimq.core.jobtype import DEFAULT_CLIENT, EVERY_CLIENT, check_name, is_name, split_type
from slimq.core.lifecycle import State
from slimq.core.limits import LIST_MAX
from slimq.core.status import Outcome
from slimq.errors import BadBody, BadParameter, BodyTooLarge
from slimq.store.base import JobFilter

Parameters = Mapping[str, str]

FILTER_PARAMETERS = ("client", "jobtype", "state", "outcome", "since", "until")
STATES = tuple(State)
OUTCOMES = (Outcome.OK, Outcome.FAILED, Outcome.ERROR)
LIST_DEFAULT = 100
_DECIMAL_MAX = 12  # digits; longer numbers are over every bound


class Target(NamedTuple):
    """What a route for one jobtype is about: `client` may be ``*``, every client."""

    client: str
    jobtype: str


def parameters(request: Request, known: Collection[str] = ()) -> Parameters:
    """Return the query of a request; raise BadParameter for one that is not `known`."""
    query: bytes = request.scope["query_string"]
    if query and not known:
        raise BadParameter("this route has no parameters")
    return read_parameters(query, known)


def bad(name: str, rule: str) -> BadParameter:
    return BadParameter(f"{name}: {rule}", extra={"parameter": name})


def integer(
    given: Parameters, name: str, low: int, high: int, default: int | None = None
) -> int | None:
    """Return the whole number that a parameter says, or `default`. Raises BadParameter."""
    text = given.get(name)
    if text is None:
        return default
    legal = text.isascii() and text.isdecimal() and len(text) <= _DECIMAL_MAX
    if not legal or not low <= int(text) <= high:
        raise bad(name, f"a whole number from {low} to {high}")
    return int(text)


def limit(given: Parameters) -> int:
    """Return how many items a page may have."""
    return integer(given, "limit", 1, LIST_MAX) or LIST_DEFAULT


def choice(given: Parameters, name: str, choices: Collection[str]) -> str | None:
    value = given.get(name)
    if value is not None and value not in choices:
        raise bad(name, f"one of {', '.join(choices)}")
    return value


def instant(given: Parameters, name: str) -> int | None:
    """Return the ms since the epoch that a parameter means. Raises BadParameter."""
    text = given.get(name)
    if text is None:
        return None
    try:
        return parse_at(text)
    except ValueError as error:
        raise bad(name, AT_RULE) from error


def optional_name(given: Parameters, name: str) -> str | None:
    """Return a client or jobtype to look for. Raises BadName."""
    return check_name(given[name], name) if name in given else None


def job_filter(given: Parameters) -> JobFilter:
    """Return which jobs the filter parameters mean. Raises BadParameter, BadName."""
    state = choice(given, "state", STATES)
    outcome = choice(given, "outcome", OUTCOMES)
    if outcome is not None and state not in (None, State.DONE):
        raise bad("outcome", "only jobs in the state done have an outcome")
    return JobFilter(
        client=optional_name(given, "client"),
        jobtype=optional_name(given, "jobtype"),
        state=state,
        outcome=outcome,
        since=instant(given, "since"),
        until=instant(given, "until"),
    )


def before(given: Parameters) -> str:
    """Return the id below which a page of jobs starts, or ''. Raises BadParameter."""
    cursor = given.get("before", "")
    if "before" in given and not is_id(cursor):
        raise bad("before", "the id that `next` of the page before it said")
    return cursor


def after(given: Parameters) -> str:
    """Return the type above which a page of types starts, or ''. Raises BadParameter."""
    cursor = given.get("after", "")
    client, jobtype = split_type(cursor)
    if "after" in given and not (is_name(jobtype) and (is_name(client) or client == EVERY_CLIENT)):
        raise bad("after", "the type that `next` of the page before it said")
    return cursor


def target(request: Request, given: Parameters, default: str = DEFAULT_CLIENT) -> Target:
    """Return what a route ``…/{jobtype}?client=`` is about. Raises BadName."""
    client = given.get("client", default)
    if client != EVERY_CLIENT:
        check_name(client, "client")
    return Target(client, check_name(request.path_params["jobtype"], "jobtype"))


async def body(request: Request, bytes_max: int) -> bytes:
    """Return the body of a request. Raises BadBody, BodyTooLarge."""
    read = bytearray()
    try:
        async for chunk in request.stream():
            read += chunk
            if len(read) > bytes_max:
                raise BodyTooLarge(f"the body of this route has at most {bytes_max} bytes")
    except ClientDisconnect as error:
        raise BadBody("the body was cut off") from error
    return bytes(read)


async def json_object(request: Request, bytes_max: int) -> dict[str, Any]:
    """Return the body of a request as a JSON object. Raises BadBody, BodyTooLarge."""
    try:
        document = msgspec.json.decode(await body(request, bytes_max))
    except RecursionError as error:
        raise BadBody("the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadBody(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadBody("the body is a JSON object")
    return document
