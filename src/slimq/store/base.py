"""Stage 4, store: all jobs, and who leases them.

The contract that every store keeps (memory, SQLite, PostgreSQL), as three
Protocols: what the engine may do, what may be asked, what may be changed by hand. One
class implements all three; each part gets the one it needs. Every method is one atomic
step of the machine in `core/lifecycle.py`, and speaks in batches.

Rules for all:
- Times are ms since the epoch by the store's own clock; leases are judged by no other.
- A store that cannot be used now raises StoreUnavailable (from any method; StoreFull when
  its disk is), changes nothing, and works again by itself when the cause is gone.
- The cost of `due` and `claim` depends on what they return, not on the backlog and not
  on the number of idle types.
- A store object is used by one thread at a time unless it says otherwise; several store
  objects, also in several processes, may share one database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from slimq.core.handler import Handler
from slimq.core.job import Job
from slimq.core.lifecycle import Lease, Move
from slimq.errors import StoreUnavailable

ORDERED_POLL_MS = 1_000  # an ordered type whose job runs is worth asking again after this
NODES_KEPT_MS = 24 * 3600 * 1000  # how long a node that died is still shown
ABANDONED_TEXT = "the node that ran it stopped, or could not renew its lease"


class Cursor(NamedTuple):
    """How far one journal is ingested: `offset` is where the next record of `segment`
    starts; `body_offset` and `lines` say how much of that record is in already (a large
    record takes several transactions)."""

    segment: int = 0
    offset: int = 0
    body_offset: int = 0
    lines: int = 0


class NewJobs(msgspec.Struct):
    """Jobs of one type and due time from one journal record, or a slice of one.

    `record` is the first id of the whole request and `count` its number of jobs: with
    `key` (Idempotency-Key) they are what a later request with this key is answered;
    `digest` is the hash of the body that came with the key. `parent` is set for jobs
    that a handler added.
    """

    type: str
    dt: int  # when they are due
    ids: list[str]
    data: list[bytes]
    record: str = ""
    count: int = 0
    key: str = ""
    digest: str = ""
    trace: str = ""
    parent: str = ""


class KeyUse(NamedTuple):
    """The request that owns an Idempotency-Key."""

    first: str
    count: int  # type: ignore[assignment]  # no one counts the items of this tuple
    digest: str


class Ingested(msgspec.Struct):
    """`added` jobs are new; `skipped` were there already (children of a parent that ran
    twice, a replay) or belong to a request whose key another request owns (`replays`
    counts these).
    `heads` tells for each type the dt of its earliest new job."""

    added: int
    skipped: int
    replays: int
    heads: dict[str, int]


class DueType(NamedTuple):
    """A type that has, or will have, waiting work at `next_at` (a lower bound). A type on
    hold has none before its hold is over."""

    type: str
    next_at: int


class Claim(NamedTuple):
    """Claimed jobs, oldest first; `next_at` is when it is worth asking this type again
    (None: when something is added)."""

    jobs: list[Job]
    next_at: int | None


class Finished(msgspec.Struct):
    """One run of a batch that ended: its moves, and the tail of its output (kept once). The run
    began when the jobs were claimed."""

    type: str
    moves: list[Move]
    output: bytes = b""


class Ask(NamedTuple):
    """What a node wants of a limit that holds for all nodes together: `running` of its
    batches do run, and up to `wanted` might, of `most` anywhere. `name` says what is limited."""

    name: str
    most: int
    running: int
    wanted: int

    def permits(self, others: int) -> int:
        """Return how many batches the node may run while the other nodes hold so many
        permits. That can be fewer than run: when a limit was lowered."""
        return max(0, min(self.wanted, self.most - others))


class Freed(NamedTuple):
    """Jobs taken back from dead nodes: how many run again, how many are done with
    ABANDONED because it was once too often, and the heads of their types."""

    again: int
    dead: int
    heads: dict[str, int]


class Node(msgspec.Struct):
    """A running node as the others see it."""

    sysid: str
    started_at: int
    seen_at: int
    about: dict[str, Any]  # version, pid, roles, journal lag: for people


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator set for a type, or with client ``*`` for a jobtype of all clients.
    None: not set; the handler's options and the defaults hold."""

    client: str
    jobtype: str
    paused: bool | None = None
    weight: int | None = None
    concurrency: int | None = None
    batch_size: int | None = None


class Control(NamedTuple):
    """All that people set: current handlers and policies, and a version that changes with them."""

    version: int
    handlers: list[Handler]
    policies: list[Policy]


class Run(msgspec.Struct, kw_only=True):
    """One ended run of a job."""

    attempt: int
    status: int
    node: str
    started_at: int
    ended_at: int
    result: bytes = b""
    error: str = ""
    output: bytes = b""


class JobView(msgspec.Struct, kw_only=True):
    """A job as it is shown. `runs` is empty in lists. `data` is None in lists. `result` and
    `error` are of its last run. Runs are kept of its last RUNS_MAX attempts."""

    id: str
    type: str
    dt: int
    lock: str
    attempt: int
    failures: int
    crashes: int
    status: int
    due_at: int
    data: bytes | None = None
    result: bytes = b""
    error: str = ""
    parent: str = ""
    trace: str = ""
    runs: list[Run] = []


class JobFilter(msgspec.Struct, kw_only=True, frozen=True):
    """Which jobs a list or a change by filter means. None: any.

    `state` is deferred, ready, running, abandoned or done; `outcome` (done jobs) is ok,
    failed or error; `since` and `until` bound the time of the id, in ms: [since, until).
    Of done jobs, only those that were at `done_at`: none that ended since.
    """

    client: str | None = None
    jobtype: str | None = None
    state: str | None = None
    outcome: str | None = None
    since: int | None = None
    until: int | None = None
    done_at: int | None = None


class TypeView(msgspec.Struct, kw_only=True):
    """Counts of one type, exact. `waiting` is deferred and ready together; the done
    counts are of jobs not yet purged. `next_at` is when its first waiting job is due."""

    type: str
    waiting: int
    running: int
    ok: int
    failed: int
    error: int
    next_at: int | None
    hold_until: int = 0


class Totals(msgspec.Struct, kw_only=True):
    """Counts over all types, exact, and the size of the store in bytes."""

    waiting: int
    running: int
    ok: int
    failed: int
    error: int
    purged: int
    bytes: int
    types: int


class Load(NamedTuple):
    """How many jobs of a type are ready, counted up to a bound, and since when the first is."""

    ready: int
    since: int | None


class StoreFacts(msgspec.Struct, kw_only=True):
    """What a store says of itself, for people. None: it has no such thing. `warnings` are what
    an operator should look at."""

    kind: str
    version: str
    synchronous_commit: str | None = None
    dead_rows: int | None = None  # of the waiting and running jobs
    oldest_snapshot_ms: int | None = None  # how long it has been open
    warnings: list[str] = []


class EngineStore(Protocol):
    """What the engine may do. `lock` is the sysid of the calling node."""

    def now(self) -> int:
        """Return the time of the store's clock. It goes back only where it is set anew, while
        no other node is alive: measure no waiting by it."""

    def check(self) -> None:
        """Raise StoreRefused when it cannot be used and waiting would not heal that: for the
        start of a node. Says nothing about a store that may heal."""

    def facts(self) -> StoreFacts: ...

    def register(self, node: Node) -> bool:
        """Reserve the sysid of a node; return False when a living node has it."""

    def beat(self, node: Node) -> None:
        """Say that a node is alive, and what it wants others to know."""

    def leave(self, sysid: str) -> None:
        """Forget a node that stopped, and its permits."""

    def cursor(self, journal: str) -> Cursor:
        """Return how far the journal with this name is ingested."""

    def ingest(
        self, journal: str, expected: Cursor, moved: Cursor, jobs: Sequence[NewJobs]
    ) -> Ingested:
        """Insert jobs and move the cursor in one transaction.

        Raises CursorMoved, and changes nothing, when the cursor is not at `expected`.
        Ids that exist already are skipped. A request whose (type, key) another request
        with the same digest owns is not inserted: its ids resolve to the owner's, one by
        one. With another digest it is inserted as if it had no key: it was acknowledged.
        """

    def barrier(self) -> bool:
        """Make all that is committed survive a power cut; return False when that could
        not be done now (a reader is in the way)."""

    def due(self, until: int, after: str, limit: int) -> list[DueType]:
        """Return up to `limit` types above `after` (in type order) that have waiting
        jobs due at or before `until`."""

    def claim(
        self,
        type: str,
        lock: str,
        limit: int,
        *,
        lease_ms: int,
        bytes_max: int,
        full: int = 0,
        window_ms: int = 0,
        ordered: bool = False,
    ) -> Claim:
        """Lease up to `limit` ready jobs, oldest first (dt, then order of ingest), at
        least one and as many as fit in `bytes_max` of data.

        With `window_ms`, fewer than `full` jobs are claimed only when the oldest of them
        has been due for that long. With `ordered`, nothing is claimed while a job of the
        type runs or the type is on hold.
        """

    def renew(self, lock: str, leases: Sequence[Lease], *, lease_ms: int) -> set[str]:
        """Extend leases; return the ids of those that are lost."""

    def finish(self, lock: str, finished: Sequence[Finished]) -> set[str]:
        """Apply the moves whose lease still holds; return the ids of the stale ones."""

    def release(self, lock: str, leases: Sequence[Lease]) -> int:
        """Give back jobs that were not started, each to its place in line."""

    def permit(self, lock: str, asks: Sequence[Ask], *, lease_ms: int) -> list[int]:
        """Return for each limit how many batches the node may run. It holds these permits, or
        one for each running batch if these are more, for `lease_ms` or until it asks again:
        with 0 wanted and 0 running it gives them back."""

    def leases(self, lock: str) -> set[Lease]:
        """Return all leases of a node, also those that are over."""

    def free(self, limit: int, *, lock: str | None = None) -> Freed:
        """Take back up to `limit` abandoned jobs; with `lock`, all jobs of that dead node,
        and its permits."""

    def purge(self, *, ok_before: int, failed_before: int, bytes_max: int, limit: int) -> int:
        """Delete up to `limit` done jobs that were finished before these times (OK, and
        all others), or, while the store is larger than `bytes_max`, the longest finished
        ones, OK before others. A child is kept while its parent may run again. Also
        forgets keys and outputs that are past their time. Return how many jobs went."""

    def control_version(self) -> int:
        """Return the version of `control()`, cheaply."""

    def control(self) -> Control: ...


class QuestionStore(Protocol):
    """What may be asked."""

    def now(self) -> int: ...

    def facts(self) -> StoreFacts: ...

    def job(self, id: str) -> JobView | None:
        """Return a job with its data and runs; the id of a replayed request resolves."""

    def jobs(self, where: JobFilter, *, before: str, limit: int) -> list[JobView]:
        """Return up to `limit` jobs, newest id first, with ids below `before` ('': all)."""

    def type(self, type: str) -> TypeView | None: ...

    def types(
        self, *, client: str | None, jobtype: str | None, after: str, limit: int
    ) -> list[TypeView]:
        """Return types that have or had jobs, in type order, above `after`."""

    def load(self, type: str, most: int) -> Load:
        """Return how many jobs of a type are ready, at most `most`, which bounds the cost."""

    def totals(self) -> Totals: ...

    def nodes(self) -> list[Node]: ...

    def key_use(self, type: str, key: str) -> KeyUse | None: ...

    def control(self) -> Control: ...

    def versions(self, client: str, jobtype: str) -> list[Handler]:
        """Return all versions of a handler, newest first."""


class ControlStore(QuestionStore, Protocol):
    """What may be changed by hand. What these return is durable when they return."""

    def cancel(self, ids: Sequence[str]) -> list[str]:
        """End jobs that are not done with status 499; return the ids of those ended."""

    def retry(self, ids: Sequence[str]) -> dict[str, int]:
        """Run done jobs again and deferred ones now; return the heads by type."""

    def change_where(self, verb: str, where: JobFilter, limit: int) -> int:
        """Cancel or retry ("cancel", "retry") up to `limit` jobs; return how many. Call
        again until it returns 0. Jobs that the verb does not fit are passed over."""

    def put_handler(self, handler: Handler) -> Handler:
        """Store a new version (the number is given here) and make it current."""

    def delete_handler(self, client: str, jobtype: str) -> bool:
        """Delete all versions; its jobs wait."""

    def rollback_handler(self, client: str, jobtype: str, version: int | None) -> Handler | None:
        """Make an older version (None: the one before the current) current again."""

    def put_policy(self, policy: Policy) -> None: ...

    def purge_type(self, type: str, limit: int) -> int:
        """Cancel up to `limit` waiting jobs of a type; return how many. Again until 0."""

    def close(self) -> None: ...


class StoreFull(StoreUnavailable):
    """There is no room for the change. The journal's reserve may help."""


class TooSlow(StoreUnavailable):
    """A question took too long. The store is well: others may be answered."""


class CursorMoved(Exception):
    """The cursor of a journal is not where the ingester thought: read it again."""
