"""All workloads, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from accepting import accept_32, accept_bulk
from bench import Bench
from postgres import (
    postgres_backlog,
    postgres_bloat,
    postgres_drain,
    postgres_idle,
    postgres_ingest,
    postgres_takeover,
)
from resting import idle, start_latency
from result import Result
from running import exec_batch, function_batch, http_batch100, http_single
from waiting import drain_backlog, types_10000

Workload = Callable[[Bench], Result]

WORKLOADS: dict[str, Workload] = {
    each.__name__: each
    for each in (
        accept_bulk,
        accept_32,
        exec_batch,
        function_batch,
        http_single,
        http_batch100,
        start_latency,
        drain_backlog,
        types_10000,
        idle,
        postgres_ingest,
        postgres_drain,
        postgres_backlog,
        postgres_bloat,
        postgres_takeover,
        postgres_idle,
    )
}
