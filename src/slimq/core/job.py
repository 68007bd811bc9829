"""A job on its way through the engine: claimed, run, answered."""

from __future__ import annotations

import msgspec

from slimq.core.handler import Handler
from slimq.core.lines import ChildLine


class Job(msgspec.Struct, gc=False):
    """A claimed job. (id, lock, attempt) is its fencing token; the lock is the node's sysid."""

    id: str
    attempt: int  # 1 at the first claim; strictly increasing
    failures: int  # ERROR outcomes so far
    crashes: int  # contexts or nodes that died with it so far
    due_at: int  # ms; when it was first due: its age and its place in line count from here
    data: bytes
    trace: str = ""  # W3C traceparent of the request that added it


class Batch(msgspec.Struct):
    """Jobs of one type that one run of a handler gets together."""

    type: str
    handler: Handler
    jobs: list[Job]


class Result(msgspec.Struct, gc=False):
    """What became of one job in one run. Jobs may share one: it is replaced, never changed."""

    status: int
    text: bytes = b""  # what the handler said, at most RESULT_MAX
    error: str = ""  # what went wrong, in slimq's words, at most ERROR_MAX
    retry_after_ms: int | None = None  # what the handler asked for
    crashed: bool = False  # its context died with this job alone in it


class Ran(msgspec.Struct):
    """What became of a batch: one result for each job, in order.

    `children` are the jobs that each job added (empty: none did). `output` is the tail of the log.
    `died` says that the context died or hung. Then those of several jobs that have no result
    of their own (`suspects`, indexes) may be innocent: they are run again in parts. `guilty` is
    the one of them that was under way, where that is known.
    """

    results: list[Result]
    children: list[list[ChildLine]] = []
    output: bytes = b""
    died: bool = False
    suspects: list[int] = []
    guilty: int | None = None
