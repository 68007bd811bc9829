"""`/metrics`: counters of this node as Prometheus reads them.

The table says where each figure stands in ``node.status()``; one that is not there is not
shown. No label is a client or a jobtype: their number has no bound, and `GET /types` tells
what is asked of them. Works while the store is down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from slimq import __version__
from slimq.api import query
from slimq.api.control import node_state
from slimq.api.ports import NodePort

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Figure(NamedTuple):
    """One metric: `path` is where ``node.status()`` has it. With a `label`, the value there
    is an object, and each of its members a value of the label."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    path: tuple[str, ...]
    label: str = ""
    scale: float = 1.0


FIGURES = (
    Figure(
        "slimq_jobs_accepted_total",
        "counter",
        "Jobs accepted by this node",
        ("counters", "accepted"),
    ),
    Figure(
        "slimq_jobs_ingested_total",
        "counter",
        "Jobs moved from the journal to the store",
        ("counters", "ingested"),
    ),
    Figure(
        "slimq_jobs_finished_total",
        "counter",
        "Runs of jobs that ended, by outcome",
        ("counters", "finished"),
        label="outcome",
    ),
    Figure(
        "slimq_jobs_purged_total",
        "counter",
        "Done jobs deleted after their retention",
        ("counters", "purged"),
    ),
    Figure(
        "slimq_jobs_freed_total",
        "counter",
        "Jobs taken back from dead nodes",
        ("counters", "freed"),
    ),
    Figure(
        "slimq_leases_lost_total",
        "counter",
        "Leases that this node lost while it ran the job",
        ("counters", "leases_lost"),
    ),
    Figure(
        "slimq_stale_completions_total",
        "counter",
        "Results that came after the lease was lost, and were dropped",
        ("counters", "stale_completions"),
    ),
    Figure(
        "slimq_journal_quarantined_total",
        "counter",
        "Damaged records of the journal that were put aside",
        ("journal", "quarantined"),
    ),
    Figure(
        "slimq_journal_pending_bytes",
        "gauge",
        "Bytes of the journal that are not in the store yet",
        ("journal", "pending_bytes"),
    ),
    Figure("slimq_journal_bytes", "gauge", "Size of the journal on disk", ("journal", "bytes")),
    Figure(
        "slimq_store_dead_rows",
        "gauge",
        "Dead rows among the jobs that are not done, of a PostgreSQL",
        ("store", "dead_rows"),
    ),
    Figure(
        "slimq_store_oldest_snapshot_seconds",
        "gauge",
        "How long the oldest transaction of the database is open, of a PostgreSQL",
        ("store", "oldest_snapshot_ms"),
        scale=0.001,
    ),
    Figure(
        "slimq_oldest_waiting_seconds",
        "gauge",
        "How long the job that waits longest has been due, as far as this node knows",
        ("engine", "oldest_waiting_ms"),
        scale=0.001,
    ),
    Figure(
        "slimq_running_batches",
        "gauge",
        "Batches that run on this node now",
        ("engine", "running_batches"),
    ),
    Figure(
        "slimq_running_jobs",
        "gauge",
        "Jobs that run on this node now",
        ("engine", "running_jobs"),
    ),
    Figure(
        "slimq_contexts",
        "gauge",
        "Contexts of functions on this node",
        ("functions", "contexts"),
        label="state",
    ),
    Figure(
        "slimq_function_runs_total",
        "counter",
        "Runs of functions, by the start of their context",
        ("functions", "starts"),
        label="start",
    ),
    Figure(
        "slimq_contexts_ended_total",
        "counter",
        "Contexts that ended though they were well, by why",
        ("functions", "ends"),
        label="why",
    ),
)
DERIVED = ("slimq_build_info", "slimq_engine_running", "slimq_store_up", "slimq_store_warnings")
METRIC_NAMES = (*(figure.name for figure in FIGURES), *DERIVED)


class MetricsRoutes:
    """The endpoint."""

    def __init__(self, node: NodePort) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(node))
        ProcessCollector(registry=self._registry)

    async def metrics(self, request: Request) -> Response:
        query.parameters(request)
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        return Response(generate_latest(self._registry), 200, headers)


class NodeCollector(Collector):
    """What the node knows about itself, as metrics."""

    def __init__(self, node: NodePort) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        status = self._node.status()
        info = GaugeMetricFamily("slimq_build_info", "The version that runs", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        running = float(node_state(self._node) == "running")
        yield GaugeMetricFamily("slimq_engine_running", "1: jobs are started", running)
        up = float(not _at(status, ("store", "error")))
        yield GaugeMetricFamily("slimq_store_up", "1: the store can be used", up)
        warnings = float(len(_at(status, ("store", "warnings")) or ()))
        yield GaugeMetricFamily("slimq_store_warnings", "What `store.warnings` names", warnings)
        for figure in FIGURES:
            value = _at(status, figure.path)
            if value is not None:
                yield _family(figure, value)


def _at(status: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        status = status.get(name) if isinstance(status, Mapping) else None
    return status


def _family(figure: Figure, value: Any) -> Metric:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = kind(figure.name, figure.help, labels=[figure.label] if figure.label else [])
    parts = value.items() if figure.label else [("", value)]
    for label, number in parts:
        family.add_metric([str(label)] if figure.label else [], number * figure.scale)
    return family
