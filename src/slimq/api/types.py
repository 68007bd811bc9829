"""Types: what waits and runs, and the policies that people set for it.

A policy holds for a type, or with client ``*`` for a jobtype of every client; what a type
has of its own goes first, member by member, and both go before the handler's options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.bulk import repeat
from slimq.api.ports import NodePort
from slimq.api.query import Target
from slimq.api.render import json_response, policy_view
from slimq.api.type_views import Settings, empty_type, load_view, sum_types, type_view
from slimq.core.jobtype import EVERY_CLIENT, make_type
from slimq.core.limits import BATCH_MAX, CONCURRENCY_MAX, KIB, LIST_MAX, READY_MAX
from slimq.errors import BadPolicy, NotFound
from slimq.store.base import Control, ControlStore, Load, Policy, TypeView

LIST_PARAMETERS = ("client", "jobtype", "after", "limit")
WEIGHT_MAX = 1000  # more than three powers of ten between two jobtypes is a pause
_INTEGERS = {"weight": WEIGHT_MAX, "concurrency": CONCURRENCY_MAX, "batch_size": BATCH_MAX}
POLICY_MEMBERS = ("paused", *_INTEGERS)
_POLICY_BYTES_MAX = 16 * KIB

Merge = Callable[[Control, Policy], Policy]


class TypeRoutes:
    """The endpoints."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    async def page(self, request: Request) -> Response:
        given = query.parameters(request, LIST_PARAMETERS)
        client = query.optional_name(given, "client")
        jobtype = query.optional_name(given, "jobtype")
        after, limit = query.after(given), query.limit(given)

        def ask(store: ControlStore) -> tuple[list[TypeView], Control, int]:
            types = store.types(client=client, jobtype=jobtype, after=after, limit=limit + 1)
            return types, store.control(), store.now()

        types, control, now = await self._node.ask(ask)
        settings = Settings(control)
        items = [type_view(each, settings, now) for each in types[:limit]]
        following = items[-1]["type"] if len(types) > limit else None
        return json_response({"types": items, "next": following})

    async def show(self, request: Request) -> Response:
        target = query.target(request, query.parameters(request, ("client",)))

        def ask(store: ControlStore) -> tuple[TypeView | None, Control, int]:
            return _type(store, target), store.control(), store.now()

        found, control, now = await self._node.ask(ask)
        settings = Settings(control)
        if found is None and not settings.names(target):
            raise NotFound(
                f"there is no job, handler or policy of {target.client}/{target.jobtype}"
            )
        return json_response(type_view(found or empty_type(target), settings, now))

    async def load(self, request: Request) -> Response:
        """Answer a scaler, also for a type that never had a job."""
        target = query.target(request, query.parameters(request, ("client",)))
        load, now = await self._node.ask(lambda store: (_load(store, target), store.now()))
        return json_response(load_view(target, load, now))

    async def change(self, request: Request) -> Response:
        target = _policy_target(request)
        changes = read_changes(await query.json_object(request, _POLICY_BYTES_MAX))
        return await self._set(
            target, lambda control, policy: msgspec.structs.replace(policy, **changes)
        )

    async def pause(self, request: Request) -> Response:
        return await self._set(
            _policy_target(request),
            lambda control, policy: msgspec.structs.replace(policy, paused=True),
        )

    async def resume(self, request: Request) -> Response:
        return await self._set(_policy_target(request), _resumed)

    async def purge(self, request: Request) -> Response:
        """Cancel what waits of a type; with client ``*``, of the jobtype of every client."""
        target = query.target(request, query.parameters(request, ("client",)))
        if target.client == EVERY_CLIENT:
            counts = await self._node.ask(lambda store: _waiting(store, target.jobtype))
        else:
            type_ = make_type(*target)
            found = await self._node.ask(lambda store: store.type(type_))
            counts = {type_: found.waiting if found else 0}
        purged = 0
        try:
            for type_, waiting in counts.items():
                purged += await self._purge(type_, waiting)
        finally:
            self._node.wake()
        return json_response({"count": purged})

    async def _purge(self, type_: str, most: int) -> int:
        return await repeat(self._node, lambda store, limit: store.purge_type(type_, limit), most)

    async def _set(self, target: Target, merge: Merge) -> Response:
        def put(store: ControlStore) -> Policy:
            control = store.control()
            policy = merge(control, _policy(control, target))
            store.put_policy(policy)
            return policy

        policy = await self._node.ask(put)
        self._node.wake()
        return json_response(policy_view(policy))


def read_changes(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a policy that a document sets; None unsets. Raises BadPolicy
    with the name of the member."""
    return {name: _member(name, value) for name, value in document.items()}


def _member(name: str, value: Any) -> bool | int | None:
    if name not in POLICY_MEMBERS:
        raise _bad(name[:64], f"no such member; there are {', '.join(POLICY_MEMBERS)}")
    if value is None:
        return None
    if name == "paused":
        if type(value) is not bool:
            raise _bad(name, "true, false or null")
        return value
    high = _INTEGERS[name]
    if type(value) is not int or not 1 <= value <= high:
        raise _bad(name, f"a whole number from 1 to {high}, or null")
    return value


def _bad(field: str, rule: str) -> BadPolicy:
    return BadPolicy(f"{field}: {rule}", extra={"field": field})


def _resumed(control: Control, policy: Policy) -> Policy:
    """Unpause: a client's own "not paused" is set only where it must outweigh a pause for
    every client, so that it does not outweigh the next one."""
    everyone = _policy(control, Target(EVERY_CLIENT, policy.jobtype))
    outweighs = policy.client != EVERY_CLIENT and everyone.paused
    return msgspec.structs.replace(policy, paused=False if outweighs else None)


def _policy(control: Control, target: Target) -> Policy:
    for policy in control.policies:
        if (policy.client, policy.jobtype) == target:
            return policy
    return Policy(client=target.client, jobtype=target.jobtype)


def _policy_target(request: Request) -> Target:
    return query.target(request, query.parameters(request, ("client",)), EVERY_CLIENT)


def _type(store: ControlStore, target: Target) -> TypeView | None:
    if target.client != EVERY_CLIENT:
        return store.type(make_type(*target))
    return sum_types(target, all_types(store, target.jobtype))


def _load(store: ControlStore, target: Target) -> Load:
    """Return the load of a type, or that of a jobtype, counted over its clients to one bound."""
    if target.client != EVERY_CLIENT:
        return store.load(make_type(*target), READY_MAX)
    ready = 0
    since: int | None = None
    for type_ in _waiting(store, target.jobtype):
        found = store.load(type_, READY_MAX - ready)
        ready += found.ready
        since = min(filter(None, (since, found.since)), default=None)
        if ready >= READY_MAX:
            break
    return Load(ready, since)


def _waiting(store: ControlStore, jobtype: str) -> dict[str, int]:
    return {each.type: each.waiting for each in all_types(store, jobtype) if each.waiting}


def all_types(store: ControlStore, jobtype: str) -> list[TypeView]:
    """Return the types of a jobtype, of all clients."""
    types: list[TypeView] = []
    while True:
        after = types[-1].type if types else ""
        page = store.types(client=None, jobtype=jobtype, after=after, limit=LIST_MAX)
        types += page
        if len(page) < LIST_MAX:
            return types
