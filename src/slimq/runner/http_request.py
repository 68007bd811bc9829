r"""What an http handler is sent.

========  ==============================  ===================================================
form      body                            headers of its own
========  ==============================  ===================================================
single    the job's data, as it came      ``traceparent``, when the job has one
batch     each job's data and ``\n``      ``Slimq-Count``; ``Slimq-Job-Ids`` in lines of 100
========  ==============================  ===================================================

Both have the headers of Standard Webhooks 1.0, ``Idempotency-Key`` (equal to
``webhook-id``), ``Slimq-Type`` and ``Slimq-Attempt`` (batch: one for each job, in the
order and the lines of the ids). The data is ``application/octet-stream``, the lines are
``text/plain``: slimq does not know more about what it carries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slimq.core.job import Batch, Job
from slimq.core.limits import RESPONSE_MAX, STDOUT_MAX
from slimq.runner.caller import Request
from slimq.runner.signing import Signer, batch_id

_PER_LINE = 100  # values in one header line: 100 ids are 2.2 KB, under any server's bound
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C

_COMMON = ["Accept-Encoding: identity"]


def build_request(batch: Batch, signer: Signer, now_s: int) -> Request:
    """Return the request for `batch`, signed at `now_s` (seconds since the epoch)."""
    options = batch.handler.options
    if options.batch_size == 1 and len(batch.jobs) == 1:
        message, body, own = _single(batch.jobs[0])
    else:
        message, body, own = _batch(batch.jobs)
    headers = [
        *_COMMON,
        *own,
        *signer.headers(message, now_s, body),
        f"Idempotency-Key: {message}",
        f"Slimq-Type: {batch.type}",
    ]
    assert isinstance(batch.handler.body, str)
    answer_max = min(RESPONSE_MAX * len(batch.jobs), STDOUT_MAX)
    return Request(batch.handler.body, headers, body, options.timeout_ms, answer_max)


def _single(job: Job) -> tuple[str, bytes, list[str]]:
    headers = ["Content-Type: application/octet-stream", f"Slimq-Attempt: {job.attempt}"]
    if _TRACEPARENT.fullmatch(job.trace):
        headers.append(f"traceparent: {job.trace}")
    return job.id, job.data, headers


def _batch(jobs: Sequence[Job]) -> tuple[str, bytes, list[str]]:
    ids = [job.id for job in jobs]
    headers = ["Content-Type: text/plain", f"Slimq-Count: {len(jobs)}"]
    for start in range(0, len(jobs), _PER_LINE):
        part = jobs[start : start + _PER_LINE]
        headers.append("Slimq-Job-Ids: " + ",".join([job.id for job in part]))
        headers.append("Slimq-Attempt: " + ",".join([str(job.attempt) for job in part]))
    return batch_id(ids), b"\n".join([job.data for job in jobs]) + b"\n", headers
