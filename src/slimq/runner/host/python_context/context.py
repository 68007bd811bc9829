"""What a handler gets beside its event."""

from __future__ import annotations

import os
import time

from .answer import CHILD, record
from .values import Failed, Retry, child

TYPE_CHECKING = False  # see values.py
if TYPE_CHECKING:
    from collections.abc import Sequence

CHILDREN_MAX = 10_000  # of one job
PROGRESS_S = 0.1  # the node is told at most so often


class About:
    """Of a function: whose it is, and what it may take."""

    def __init__(self, control: int, words: Sequence[str]) -> None:
        self.control = control
        self.client, self.jobtype, self.version, memory_mb = words
        self.memory_mb = int(memory_mb)
        self.told_at = 0.0


class Batch:
    """Jobs that run together. In the memory file of the node::

    <count> <ms for all> <ms for one, or 0>
    <id> <id> ...
    <attempt> <attempt> ...
    <data>                         a line for each job
    """

    def __init__(self, payload: bytes) -> None:
        head, ids, attempts, *self.data = payload.split(b"\n")
        self.count, batch_ms, self.job_ms = map(int, head.split())
        self.deadline = time.monotonic() + batch_ms / 1000
        self.children: dict[int, list[bytes]] = {}  # records, by the place of their job
        self._ids, self._attempts = ids, attempts
        self._split_ids: list[str] = []
        self._split_attempts: list[int] = []

    @property
    def ids(self) -> list[str]:
        if not self._split_ids:
            self._split_ids = self._ids.decode().split()
        return self._split_ids

    @property
    def attempts(self) -> list[int]:
        if not self._split_attempts:
            self._split_attempts = [int(attempt) for attempt in self._attempts.split()]
        return self._split_attempts


class _FunctionContext:
    """What holds for every call: also for `before`, which is called for no job."""

    Retry, Failed = Retry, Failed
    identity = client_context = None

    def __init__(self, about: About) -> None:
        self._about = about

    @property
    def client(self) -> str:
        return self._about.client

    @property
    def function_name(self) -> str:
        return self._about.jobtype

    jobtype = function_name

    @property
    def function_version(self) -> str:
        return self._about.version

    log_stream_name = function_version

    @property
    def memory_limit_in_mb(self) -> int:
        return self._about.memory_mb

    @property
    def invoked_function_arn(self) -> str:
        return f"arn:aws:lambda:local:000000000000:function:{self._about.jobtype}"

    @property
    def log_group_name(self) -> str:
        return f"/slimq/{self._about.client}/{self._about.jobtype}"

    def log(self, *words: object) -> None:
        """Print words to the log of the run."""
        print(*words)


class Context(_FunctionContext):
    """Of one job of a batch; without `place`, of the whole batch."""

    def __init__(self, about: About, batch: Batch, place: int | None = None) -> None:
        self._about, self._batch, self._place = about, batch, place
        self._deadline = batch.deadline
        if batch.job_ms and place is not None:
            self._deadline = min(batch.deadline, time.monotonic() + batch.job_ms / 1000)

    @property
    def id(self) -> str:
        return self._batch.ids[self._place or 0]

    aws_request_id = id

    @property
    def attempt(self) -> int:
        return self._batch.attempts[self._place or 0]

    @property
    def jobs(self) -> list[Context]:
        """The contexts of all jobs of the batch, in the order of the events."""
        return [Context(self._about, self._batch, place) for place in range(self._batch.count)]

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int(1000 * (self._deadline - time.monotonic())))

    def enqueue(self, jobtype: str, data: object = b"") -> None:
        """Add a job of the same client. `data` is bytes, text, or becomes JSON. Raises
        ValueError when it can be no job."""
        children = self._batch.children.setdefault(self._one("enqueue"), [])
        if len(children) >= CHILDREN_MAX:
            raise ValueError(f"a job adds at most {CHILDREN_MAX} jobs")
        children.append(record(CHILD, 0, child(jobtype, data)))

    def progress(self, done: float, total: float = 0) -> None:
        """Say how far the job is."""
        place, now = self._one("progress"), time.monotonic()
        if now - self._about.told_at >= PROGRESS_S:
            self._about.told_at = now
            os.write(self._about.control, b"P%d %d %d" % (place, done, total))

    def _one(self, verb: str) -> int:
        if self._place is None and self._batch.count != 1:
            raise TypeError(f"of several jobs, say which: context.jobs[n].{verb}(...)")
        return self._place or 0


class BeforeContext(_FunctionContext):
    """Of a context that has no batch yet."""
