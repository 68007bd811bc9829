"""What rows of an SQL store mean, whatever its dialect: the columns come in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from slimq.core.handler import Handler, parse_options
from slimq.store.base import JobView, Policy, Run, TypeView

_JOB = (
    "id",
    "type",
    "dt",
    "lock",
    "attempt",
    "failures",
    "crashes",
    "status",
    "due_at",
    "parent",
    "trace",
    "error",
    "result",
    "data",
)
_TYPE = ("type", "waiting", "running", "ok", "failed", "error", "next_at", "hold_until")
_decode = msgspec.json.Decoder().decode


def job_of(row: Sequence[Any]) -> JobView:
    values = dict(zip(_JOB, row, strict=True))
    for name in ("parent", "trace", "error"):
        values[name] = values[name] or ""
    values["result"] = values["result"] or b""
    return JobView(**values)


def run_of(row: Sequence[Any]) -> Run:
    attempt, status, node, started_at, ended_at, result, error, output = row
    return Run(
        attempt=attempt,
        status=status,
        node=node,
        started_at=started_at,
        ended_at=ended_at,
        result=result or b"",
        error=error or "",
        output=output or b"",
    )


def type_of(row: Sequence[Any]) -> TypeView:
    return TypeView(**dict(zip(_TYPE, row, strict=True)))


def handler_of(row: Sequence[Any]) -> Handler:
    """`body` and `options` are JSON."""
    client, jobtype, version, lang, body, options, created_at = row
    written = dict(_decode(options))
    return Handler(
        client=client,
        jobtype=jobtype,
        version=version,
        lang=lang,
        body=_decode(body),
        options=parse_options(lang, written),
        written=written,
        created_at=created_at,
    )


def policy_of(row: Sequence[Any]) -> Policy:
    client, jobtype, paused, weight, concurrency, batch_size = row
    return Policy(
        client=client,
        jobtype=jobtype,
        paused=None if paused is None else bool(paused),
        weight=weight,
        concurrency=concurrency,
        batch_size=batch_size,
    )
