"""Views: what the store and the node know, as the JSON documents of the HTTP surface.

Times are RFC 3339 in UTC with milliseconds. Bytes are a string where they are UTF-8;
otherwise the member is called ``<name>_base64``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from slimq.api.problem import JSON_TYPE
from slimq.core.bundle import file_sizes
from slimq.core.handler import Handler
from slimq.core.jobid import parse_id
from slimq.core.jobtype import split_type
from slimq.core.language import FUNCTIONS
from slimq.core.lifecycle import State, finished_at, state_of
from slimq.core.status import outcome_of
from slimq.journal.record import Header
from slimq.store.base import JobView, Node, Policy, Run

View = dict[str, Any]
ACCEPTED = "accepted"  # what is not in the store yet has no state there
_encode = msgspec.json.Encoder().encode


def json_response(
    document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a document as an answer. It ends with a newline, for terminals."""
    fixed = {"content-type": JSON_TYPE, "cache-control": "no-store"}
    return Response(_encode(document) + b"\n", status, {**fixed, **(headers or {})})


def time_text(ms: int) -> str:
    """Return an instant as RFC 3339 writes it, for example ``2026-11-24T09:30:00.000Z``."""
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def pending_view(id: str, header: Header) -> View:
    """Show a job that is accepted but not yet in the store. A job of a record whose lines
    say themselves what they are may be due at any time: that is not known yet."""
    view = {
        "id": id,
        **_type_members(header.type),
        "state": ACCEPTED,
        "accepted_at": time_text(parse_id(id).time_ms),
    }
    if header.kind == "lines":
        view["due_at"] = time_text(header.dt or header.at)
    return view


def job_item(job: JobView, now: int) -> View:
    """Show a job as lists do: without its data, result and runs."""
    state = state_of(job.dt, job.lock, now)
    view = {
        "id": job.id,
        **_type_members(job.type),
        "state": state,
        "status": job.status or None,
        "attempt": job.attempt,
        "failures": job.failures,
        "crashes": job.crashes,
        "accepted_at": time_text(parse_id(job.id).time_ms),
        "due_at": time_text(job.due_at),
        "error": job.error,
    }
    if state is State.DONE:
        view["outcome"] = outcome_of(job.status)
        view["finished_at"] = time_text(finished_at(job.dt))
    elif state is State.DEFERRED:
        view["next_at"] = time_text(job.dt)
    elif state is not State.READY:
        view["node"] = job.lock
    if job.parent:
        view["parent"] = job.parent
    return view


def job_view(job: JobView, now: int) -> View:
    """Show a job in full."""
    view = job_item(job, now)
    view |= bytes_member("data", job.data or b"")
    view |= bytes_member("result", job.result)
    if job.trace:
        view["trace"] = job.trace
    view["runs"] = [_run_view(run) for run in job.runs]
    return view


def _run_view(run: Run) -> View:
    return {
        "attempt": run.attempt,
        "status": run.status,
        "outcome": outcome_of(run.status),
        "node": run.node,
        "started_at": time_text(run.started_at),
        "ended_at": time_text(run.ended_at),
        **bytes_member("result", run.result),
        "error": run.error,
        **bytes_member("output", run.output),
    }


def bytes_member(name: str, value: bytes) -> dict[str, str]:
    """Return bytes as a member of a JSON document."""
    try:
        return {name: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode("ascii")}


def handler_view(handler: Handler, *, whole: bool = False) -> View:
    """Show a handler. Of a function there is the source only when it is asked for as a
    `whole`; else the sizes of its `files`."""
    short = handler.lang in FUNCTIONS and not whole
    return {
        "client": handler.client,
        "jobtype": handler.jobtype,
        "version": handler.version,
        "lang": handler.lang,
        **({"files": file_sizes(handler.lang, handler.body)} if short else {"body": handler.body}),
        "options": handler.written,
        "created_at": time_text(handler.created_at),
    }


def policy_view(policy: Policy) -> View:
    return msgspec.structs.asdict(policy)


def node_view(node: Node) -> View:
    return {
        "sysid": node.sysid,
        "started_at": time_text(node.started_at),
        "seen_at": time_text(node.seen_at),
        "about": node.about,
    }


def _type_members(type_: str) -> View:
    """A record of jobs of several types has no type of its own."""
    if not type_:
        return {}
    client, jobtype = split_type(type_)
    return {"type": type_, "client": client, "jobtype": jobtype}
