"""openapi.json against the running app: every route, every parameter, every error.

Beside these tests the bench holds every answer of all tests of the routes against it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import openapi_check as api
import pytest
from routes_kit import Bench, Reply

from slimq import errors
from slimq.api.jobs import Waits
from slimq.core.limits import INVOKES_MAX, JSON_BODY_MAX, LINE_MAX

UNKNOWN = "0000000-testnode-0000"
BODIES = {
    ("POST", "/add"): b"line\n",
    ("POST", "/jobs"): b'{"jobtype":"mail","data":"x"}',
    ("PUT", "/handlers/{jobtype}"): b'{"lang":"exec","body":["cat"]}',
    ("POST", "/handlers/{jobtype}/invoke"): b"line\n",
    ("PATCH", "/types/{jobtype}"): b'{"weight":3}',
}
EVENT = b'{"specversion":"1.0","id":"1","source":"/x","type":"mail"}'
EVENT_HEADERS = {"content-type": "application/cloudevents+json"}
QUERIES = {"/add": "jobtype=mail", "/jobs/cancel": "all=true", "/jobs/retry": "all=true"}
EITHER = ("GET", "POST")
INVOKE = "/handlers/{jobtype}/invoke"


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def call(
    bench: Bench,
    method: str,
    path: str,
    *,
    query: str | None = None,
    body: bytes | None = None,
    id: str = UNKNOWN,
    jobtype: str = "mail",
    **headers: str,
) -> Reply:
    """Call a documented route; what is not said is legal."""
    query = QUERIES.get(path, "") if query is None else query
    target = path.replace("{id}", id).replace("{jobtype}", jobtype)
    body = BODIES.get((method, path), b"") if body is None else body
    return bench.run(bench.call(method, f"{target}?{query}", body, headers))


def prepare(bench: Bench, method: str, path: str) -> str:
    """Make what a route needs to succeed; return the id of a job that fits it."""
    if (method, path) != ("PUT", "/handlers/{jobtype}"):
        bench.handler("mail", body=["one"])
        bench.handler("mail")
    bench.register()
    done = bench.done("main/mail")
    waiting = bench.add_one("main/mail")
    return waiting if path.endswith("/cancel") else done


@pytest.mark.parametrize(("method", "path"), api.operations())
def test_every_route_succeeds_as_documented(bench: Bench, method: str, path: str):
    id_ = prepare(bench, method, path)
    reply = call(bench, method, path, id=id_)
    assert 200 <= reply.status < 300
    assert str(reply.status) in api.operation(method, path)["responses"]


def test_a_job_before_it_is_in_the_store_and_the_status_without_store_are_as_documented(
    bench: Bench,
):
    id_ = bench.add_one("main/mail")
    bench.accepted(id_, "main/mail")
    assert bench.get(f"/jobs/{id_}").json["state"] == "accepted"
    bench.node.down = errors.StoreUnavailable("locked")
    assert bench.get("/status").json["store"]["up"] is False


@pytest.mark.parametrize(("method", "path"), api.operations())
def test_the_documented_parameters_are_those_that_the_route_knows(
    bench: Bench, method: str, path: str
):
    documented = {each["name"] for each in api.parameters(method, path) if each["in"] == "query"}
    reply = call(bench, method, path, query="nothing=1")
    known = _known_parameters(reply)
    if (method, path) == ("POST", "/jobs"):
        event = call(bench, method, path, query="nothing=1", body=EVENT, **EVENT_HEADERS)
        known |= _known_parameters(event)
    assert documented == known


def _known_parameters(reply: Reply) -> set[str]:
    assert reply.slug == "bad-parameter"
    _, _, listed = reply.json["detail"].partition("there are ")
    return set(listed.split(", ")) if listed else set()


def _out_of_bounds(schema: Any) -> list[str]:
    """Return values that a documented parameter excludes."""
    schema = api.resolve(schema)
    if schema["type"] == "integer":
        return [str(schema["minimum"] - 1), str(schema["maximum"] + 1), "x", ""]
    return ["", "\0", "a/../b", "é" * 300]


def _in_bounds(schema: Any) -> list[str]:
    """Return values that a documented parameter allows."""
    schema = api.resolve(schema)
    if schema["type"] == "integer":
        return [str(schema["minimum"]), str(schema["maximum"])]
    return schema.get("enum") or ([schema["const"]] if "const" in schema else [])


QUERY_PARAMETERS = [
    (method, path, each["name"], each["schema"])
    for method, path in api.operations()
    for each in api.parameters(method, path)
    if each["in"] == "query"
]


@pytest.mark.parametrize(("method", "path", "name", "schema"), QUERY_PARAMETERS)
def test_every_parameter_is_bounded_as_documented(
    bench: Bench, method: str, path: str, name: str, schema: Any
):
    id_ = prepare(bench, method, path)
    as_event = path == "/jobs" and method == "POST"
    headers = EVENT_HEADERS if as_event else {}
    body = EVENT if as_event else None
    base = "jobtype=mail&" if path == "/add" and name != "jobtype" else ""

    def status(value: str) -> int:
        query = f"{base}{name}={quote(value, safe='')}"
        return call(bench, method, path, query=query, body=body, id=id_, **headers).status

    assert {status(value) for value in _out_of_bounds(schema)} == {400}
    assert 400 not in {status(value) for value in _in_bounds(schema)}


# Errors: for each documented type a way to get there.

Provoke = Callable[[Bench, str, str], Reply]
STORE_ERRORS = {
    "store-unavailable": errors.StoreUnavailable,
    "store-too-new": errors.StoreTooNew,
}
REFUSALS = {
    "journal-failed": errors.JournalFailed,
    "disk-full": errors.DiskFull,
    "shutting-down": errors.ShuttingDown,
    "not-accepting": errors.NotAccepting,
    "durability-unmet": errors.DurabilityUnmet,
    "unavailable": errors.OperatorError,
}
FEED_ERRORS = {
    "body-too-large": errors.BodyTooLarge,
    "line-too-long": errors.LineTooLong,
}


def bad_name(bench: Bench, method: str, path: str) -> Reply:
    if "{jobtype}" in path:
        return call(bench, method, path, jobtype="-a")
    if (method, path) == ("POST", "/jobs"):
        return call(bench, method, path, body=b'{"jobtype":"-a","data":"x"}')
    return call(bench, method, path, query="jobtype=-a")


def bad_body(bench: Bench, method: str, path: str) -> Reply:
    lines = path in ("/add", INVOKE)
    return call(bench, method, path, body=b"" if lines else b"[1]")


def body_too_large(bench: Bench, method: str, path: str) -> Reply:
    if path == "/add":
        return refused_body(errors.BodyTooLarge)(bench, method, path)
    return call(bench, method, path, body=b" " * (JSON_BODY_MAX + 1))


def refused_body(error: type[errors.SlimqError]) -> Provoke:
    def provoke(bench: Bench, method: str, path: str) -> Reply:
        bench.body_error = error("refused")
        return call(bench, method, path)

    return provoke


def line_too_long(bench: Bench, method: str, path: str) -> Reply:
    if path == "/add":
        return refused_body(errors.LineTooLong)(bench, method, path)
    data = "x" * (LINE_MAX + 1)
    if path == INVOKE:
        return call(bench, method, path, body=data.encode())
    return call(bench, method, path, body=msgspec.json.encode({"jobtype": "a", "data": data}))


def store_error(error: type[errors.SlimqError]) -> Provoke:
    def provoke(bench: Bench, method: str, path: str) -> Reply:
        bench.node.down = error("broken")
        return call(bench, method, path)

    return provoke


def refusal(error: type[errors.SlimqError]) -> Provoke:
    def provoke(bench: Bench, method: str, path: str) -> Reply:
        if path == INVOKE:
            return one_too_many(bench, method)
        if path == "/jobs/{id}":
            bench.remake(Waits(waiters_max=0))
            return call(bench, method, path, query="wait=1")
        if path == "/readyz" and error is errors.ShuttingDown:
            bench.node.quit()
        bench.refusal = error("refused")
        return call(bench, method, path)

    return provoke


def one_too_many(bench: Bench, method: str) -> Reply:
    """Try a handler as often at a time as may be, and once more."""
    bench.handler("mail")
    target = INVOKE.replace("{jobtype}", "mail")

    async def scene() -> Reply:
        calls = [bench.call(method, target, b"line") for _ in range(INVOKES_MAX + 1)]
        return (await asyncio.gather(*calls))[-1]

    return bench.run(scene())


def bad_handler(bench: Bench, method: str, path: str) -> Reply:
    if path != INVOKE:
        return call(bench, method, path, body=b"{}")
    bench.handler("mail", body=["missing"])
    bench.node.refused_commands = {"missing"}
    return call(bench, method, path)


def no_context(bench: Bench, method: str, path: str) -> Reply:
    bench.node.has_contexts = False
    return call(bench, method, path, body=b'{"lang":"python","body":"def handler(e, c): 0"}')


def conflict(bench: Bench, method: str, path: str) -> Reply:
    id_ = bench.done("main/mail") if path.endswith("cancel") else bench.add_one("main/mail")
    return call(bench, method, path, id=id_)


def forbidden(bench: Bench, method: str, path: str) -> Reply:
    return call(bench, method, path, sec_purpose="prefetch")


def keyed(first: bytes, second: bytes, *, at_once: bool) -> Provoke:
    """Two requests with one key, one after the other or at the same time."""

    def provoke(bench: Bench, method: str, path: str) -> Reply:
        target = f"{path}?{QUERIES.get(path, '')}"
        data, headers = b"line" if path == "/add" else b'"x"', {"idempotency-key": "one"}
        calls = [
            bench.call(method, target, BODIES[method, path].replace(data, each), headers)
            for each in (first, second)
        ]

        async def scene() -> Reply:
            if at_once:
                return (await asyncio.gather(*calls))[1]
            await calls[0]
            return await calls[1]

        return bench.run(scene())

    return provoke


PROVOKE: dict[str, Provoke] = {
    "bad-parameter": lambda bench, method, path: call(bench, method, path, query="nothing=1"),
    "bad-name": bad_name,
    "bad-id": lambda bench, method, path: call(bench, method, path, id="x"),
    "bad-body": bad_body,
    "not-found": call,
    "conflict": conflict,
    "forbidden": forbidden,
    "body-too-large": body_too_large,
    "line-too-long": line_too_long,
    "bad-handler": bad_handler,
    "no-context": no_context,
    "bad-policy": lambda bench, method, path: call(bench, method, path, body=b'{"weight":0}'),
    "key-reused": keyed(b'"a"', b'"b"', at_once=False),
    "key-in-flight": keyed(b'"a"', b'"a"', at_once=True),
    **{slug: store_error(error) for slug, error in STORE_ERRORS.items()},
    **{slug: refusal(error) for slug, error in REFUSALS.items()},
}
DOCUMENTED_ERRORS = [
    (method, path, status, slug)
    for method, path in api.operations()
    for status, response in api.operation(method, path)["responses"].items()
    if status != "default"
    for slug in api.slugs(response)
]


@pytest.mark.parametrize(("method", "path", "status", "slug"), DOCUMENTED_ERRORS)
def test_every_documented_error_is_what_its_cause_is_answered_with(
    bench: Bench, method: str, path: str, status: str, slug: str
):
    reply = PROVOKE[slug](bench, method, path)
    assert (reply.slug, str(reply.status)) == (slug, status)
    assert ("retry-after" in reply.headers) == (status in ("503", "507"))


@pytest.mark.parametrize(("method", "path"), api.operations())
def test_every_route_has_the_documented_methods_and_no_other(bench: Bench, method: str, path: str):
    allowed = call(bench, "OPTIONS", path).headers["allow"].split(", ")
    documented = [each for each, other in api.operations() if other == path]
    assert sorted(set(allowed) - {"HEAD"}) == sorted(documented)
    assert not re.search(r"\{|\}", path.replace("{id}", "").replace("{jobtype}", ""))
