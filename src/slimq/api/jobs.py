"""Jobs, asked about and changed: `GET /jobs…`, `POST /jobs/…/cancel` and `…/retry`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from slimq.api import query
from slimq.api.bulk import Change, repeat
from slimq.api.ports import NodePort
from slimq.api.render import View, job_item, job_view, json_response, pending_view
from slimq.core.jobid import parse_id
from slimq.core.lifecycle import State, state_of
from slimq.core.limits import WAIT_MAX_S, WAITERS_MAX
from slimq.core.status import Outcome
from slimq.errors import Conflict, NotFound, OperatorError
from slimq.store.base import ControlStore, JobFilter, JobView

LIST_PARAMETERS = (*query.FILTER_PARAMETERS, "before", "limit")
BULK_PARAMETERS = (*query.FILTER_PARAMETERS, "all")
REASKS_PER_S = 1000  # of all callers that wait: what the store can answer beside its work
INGEST_POLL_S = 0.02
FRESH_MS = 60_000  # an id that is older and not in the store is not on its way there


class Waits(NamedTuple):
    """How long requests wait for what happens elsewhere, in seconds, and how many may.

    A job that finishes on another node is seen after `reask_s`; one that was just accepted
    reaches the store within milliseconds, long before `ingest_s`.
    """

    reask_s: float = 1.0
    ingest_s: float = 2.0
    waiters_max: int = WAITERS_MAX


class Known(NamedTuple):
    """A job as the store shows it, and the time there."""

    job: JobView
    now: int


class Unknown(NotFound):
    """The store has no job with this id, `now` by its clock."""

    def __init__(self, id_: str, now: int) -> None:
        super().__init__(f"there is no job {id_}; done jobs are purged after their retention")
        self.now = now


class JobRoutes:
    """The endpoints."""

    def __init__(self, node: NodePort, waits: Waits) -> None:
        self._node = node
        self._waits = waits
        self._waiting = 0

    def reask_after_s(self, waiting: int) -> float:
        """Return how long each of so many callers waits before it asks the store again."""
        return max(self._waits.reask_s, waiting / REASKS_PER_S)

    async def page(self, request: Request) -> Response:
        given = query.parameters(request, LIST_PARAMETERS)
        where, before, limit = query.job_filter(given), query.before(given), query.limit(given)

        def ask(store: ControlStore) -> tuple[list[JobView], int]:
            return store.jobs(where, before=before, limit=limit + 1), store.now()

        jobs, now = await self._node.ask(ask)
        more = len(jobs) > limit
        items = [job_item(job, now) for job in jobs[:limit]]
        return json_response({"jobs": items, "next": items[-1]["id"] if more else None})

    async def show(self, request: Request) -> Response:
        given = query.parameters(request, ("wait",))
        wait_s = query.integer(given, "wait", 0, WAIT_MAX_S) or 0
        id_ = _id(request)
        view = await (self._view_when_done(id_, wait_s, request) if wait_s else self._view(id_))
        return json_response(view)

    async def cancel(self, request: Request) -> Response:
        return await self._change(request, "cancel", lambda store, id_: store.cancel([id_]))

    async def retry(self, request: Request) -> Response:
        return await self._change(request, "retry", lambda store, id_: store.retry([id_]))

    async def cancel_where(self, request: Request) -> Response:
        return await self._change_where(request, "cancel")

    async def retry_where(self, request: Request) -> Response:
        return await self._change_where(request, "retry")

    async def _view(self, id_: str) -> View:
        header = await self._node.pending(id_)
        if header is not None:
            return pending_view(id_, header)
        job, now = await self._found(id_, lambda store: _known(store, id_))
        view = job_view(job, now)
        if view["state"] is State.RUNNING and (said := self._node.progress(id_)):
            view["progress"] = dict(zip(("done", "total"), said, strict=True))
        return view

    async def _found(self, id_: str, ask: Callable[[ControlStore], Known]) -> Known:
        """Ask about a job that another node may have accepted a moment ago: then it is in the
        journal there, and reaches the store within milliseconds."""
        end = asyncio.get_running_loop().time() + self._waits.ingest_s
        pause_s = INGEST_POLL_S
        while True:
            try:
                return await self._node.ask(ask)
            except Unknown as unknown:
                late = asyncio.get_running_loop().time() >= end
                if late or not self._may_come(id_, unknown.now):
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2

    def _may_come(self, id_: str, now: int) -> bool:
        parts = parse_id(id_)
        return parts.sysid != self._node.sysid and now - parts.time_ms < FRESH_MS

    async def _view_when_done(self, id_: str, wait_s: int, request: Request) -> View:
        """Return the job when it is done, the time is over, or the caller is gone."""
        if self._waiting >= self._waits.waiters_max:
            raise OperatorError("too many callers wait for jobs; ask without wait")
        self._waiting += 1
        gone = asyncio.create_task(_disconnected(request))
        try:
            return await self._wait(id_, asyncio.get_running_loop().time() + wait_s, gone)
        finally:
            gone.cancel()
            self._waiting -= 1

    async def _wait(self, id_: str, deadline: float, gone: asyncio.Task[None]) -> View:
        while True:
            moved = self._node.watch(id_)  # before the question, so that no move is missed
            try:
                view = await self._view(id_)
                left_s = deadline - asyncio.get_running_loop().time()
                over = left_s <= 0 or gone.done() or self._node.quitting
                if over or view["state"] == State.DONE:
                    return view
                await asyncio.wait(
                    {moved, gone},
                    timeout=min(left_s, self.reask_after_s(self._waiting)),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                moved.cancel()

    async def _change(
        self, request: Request, verb: str, change: Callable[[ControlStore, str], object]
    ) -> Response:
        query.parameters(request)
        id_ = _id(request)
        await self._until_stored(id_)

        def ask(store: ControlStore) -> Known:
            job, now = _known(store, id_)
            if not change(store, job.id):
                raise _unfit(verb, job, now)
            return _known(store, job.id)

        job, now = await self._found(id_, ask)
        self._node.wake()
        return json_response(job_item(job, now))

    async def _until_stored(self, id_: str) -> None:
        end = asyncio.get_running_loop().time() + self._waits.ingest_s
        while await self._node.pending(id_) is not None:
            if asyncio.get_running_loop().time() >= end:
                raise Conflict("the job is accepted, but not yet in the store; try again")
            await asyncio.sleep(INGEST_POLL_S)

    async def _change_where(self, request: Request, verb: str) -> Response:
        given = query.parameters(request, BULK_PARAMETERS)
        everything = query.choice(given, "all", ("true",)) is not None
        where = query.job_filter(given)
        if not everything and where == JobFilter():
            filters = ", ".join(query.FILTER_PARAMETERS)
            raise query.bad("all", f"say which jobs ({filters}), or all=true for every job")
        most, now = await self._node.ask(lambda store: (_job_count(store), store.now()))
        try:
            count = 0
            for part in _parts(verb, msgspec.structs.replace(where, done_at=now)):
                count += await repeat(self._node, _change_part(verb, part), most)
        finally:
            self._node.wake()
        return json_response({"count": count})


def _change_part(verb: str, where: JobFilter) -> Change:
    return lambda store, most: store.change_where(verb, where, most)


def _parts(verb: str, where: JobFilter) -> list[JobFilter]:
    """Return the filters to apply one after the other. Nobody who retries "all jobs of a
    client" means those that succeeded: these must be asked for."""
    if verb != "retry" or where.state is not None or where.outcome is not None:
        return [where]
    return [
        msgspec.structs.replace(where, outcome=outcome)
        for outcome in (Outcome.FAILED, Outcome.ERROR)
    ]


def _job_count(store: ControlStore) -> int:
    """Return how many jobs there are: more changes than that would mean that jobs come
    back as fast as they are changed."""
    totals = store.totals()
    return totals.waiting + totals.running + totals.ok + totals.failed + totals.error


def _known(store: ControlStore, id_: str) -> Known:
    job = store.job(id_)
    if job is None:
        raise Unknown(id_, store.now())
    return Known(job, store.now())


def _unfit(verb: str, job: JobView, now: int) -> Conflict:
    state = state_of(job.dt, job.lock, now)
    if verb == "cancel":
        return Conflict(f"the job is done already, with status {job.status}")
    return Conflict(f"only a done or deferred job can be retried; this one is {state}")


def _id(request: Request) -> str:
    id_: str = request.path_params["id"]
    parse_id(id_)
    return id_


async def _disconnected(request: Request) -> None:
    """Return when the caller is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
