"""Accepting jobs that each say themselves what they are: the work behind `POST /jobs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from slimq.api.accept import Acceptor
from slimq.api.keys_pending import TypeKey
from slimq.api.options import AddOptions, Durability, When
from slimq.core.limits import JSON_JOBS_MAX, LINE_MAX
from slimq.errors import BadBody, BodyTooLarge, KeyReused, LineTooLong
from slimq.journal.body import Body
from slimq.journal.record import Header, JobLine
from slimq.store.base import KeyUse

_encode_line = msgspec.json.Encoder().encode


class NewJob(NamedTuple):
    """One job to accept; `data` is UTF-8 and holds no newline."""

    type: str
    when: When
    data: bytes
    key: str = ""


class AcceptedJobs(NamedTuple):
    """Ids of the jobs of one request, in its order; `replayed` of them were there before."""

    ids: list[str]
    durability: Durability
    replayed: int


class JobsAcceptor:
    """Accepts lists of jobs, each list as one record or not at all."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor

    async def accept(
        self, jobs: Sequence[NewJob], durability: Durability, trace: str
    ) -> AcceptedJobs:
        """Accept all jobs (at least one), or raise SlimqError and accept none."""
        first = jobs[0]
        alike = all(job[:2] == first[:2] and not job.key for job in jobs)
        if alike or len(jobs) == 1:
            return await self._accept_alike(jobs, durability, trace)
        return await self._accept_unlike(jobs, durability, trace)

    async def _accept_alike(
        self, jobs: Sequence[NewJob], durability: Durability, trace: str
    ) -> AcceptedJobs:
        """Jobs that differ only in their data are lines; so is one job with a key."""
        body = Body.of(b"\n".join(job.data for job in jobs) + b"\n")
        options = AddOptions(jobs[0].type, jobs[0].when, durability)
        accepted = await self._acceptor.accepted(options, body, jobs[0].key, trace)
        ids = accepted.ids.ids()
        return AcceptedJobs(ids, durability, len(ids) if accepted.replayed else 0)

    async def _accept_unlike(
        self, jobs: Sequence[NewJob], durability: Durability, trace: str
    ) -> AcceptedJobs:
        """Jobs with a type, a time or a key of their own are a record of kind "jobs"."""
        digests = _digests(jobs)
        owners = await self._acceptor.resolver.owners(digests)
        known = {key: owner.use.first for key, owner in owners.items()}
        fresh = _fresh(jobs, known)
        try:
            for owner in owners.values():
                await self._acceptor.resolver.reach(owner, durability)
            now = self._acceptor.now()
            lines = [_job_line(job, digests, now) for job in fresh]
        except BaseException:
            self._acceptor.keys.cancel(digests.keys() - owners.keys())
            raise
        ids = await self._append(fresh, lines, digests, now, durability, trace) if fresh else []
        return AcceptedJobs(_ids(jobs, fresh, ids, known), durability, len(jobs) - len(fresh))

    async def _append(
        self,
        jobs: Sequence[NewJob],
        lines: Sequence[bytes],
        digests: Mapping[TypeKey, str],
        now: int,
        durability: Durability,
        trace: str,
    ) -> list[str]:
        body = Body.of(b"\n".join(lines) + b"\n")
        ids = self._acceptor.mint(len(jobs), now)
        uses = {
            key: KeyUse(ids.id_at(index), 1, digests[key])
            for index, job in enumerate(jobs)
            if (key := _key_of(job)) is not None
        }
        header = Header(kind="jobs", id=ids.first, count=ids.count, at=now, trace=trace)
        accepted = await self._acceptor.appended(header, body, ids, durability, uses)
        return accepted.ids.ids()


def _digests(jobs: Sequence[NewJob]) -> dict[TypeKey, str]:
    """Return the digest that belongs to each key: that of the data as a body of
    `POST /add`, so that both routes agree. Raises KeyReused for a key that comes
    twice with different data."""
    digests: dict[TypeKey, str] = {}
    for index, job in enumerate(jobs):
        key = _key_of(job)
        if key is None:
            continue
        digest = Body.of(job.data + b"\n").digest()
        if digests.setdefault(key, digest) != digest:
            raise KeyReused(
                "two jobs of this request have one key and different data",
                extra={"path": f"[{index}].key"},
            )
    return digests


def check_count(count: int) -> None:
    """Raise when a request may not have so many jobs."""
    if not count:
        raise BadBody("a request has at least one job")
    if count > JSON_JOBS_MAX:
        raise BodyTooLarge(f"a request has at most {JSON_JOBS_MAX} jobs; POST /add takes more")


def new_job(type_: str, data: bytes, when: When, key: str = "") -> NewJob:
    """Return a job whose data is one line. Raises BadBody, LineTooLong."""
    if b"\n" in data:
        raise BadBody("data is one line: it must not contain a newline")
    if len(data) > LINE_MAX:
        raise LineTooLong(f"the data of a job has at most {LINE_MAX} bytes")
    return NewJob(type_, when, data, key)


def _key_of(job: NewJob) -> TypeKey | None:
    return TypeKey(job.type, job.key) if job.key else None


def _fresh(jobs: Sequence[NewJob], known: Mapping[TypeKey, str]) -> list[NewJob]:
    """Return the jobs that are new: of those with one key, the first, if nobody owns it."""
    fresh: list[NewJob] = []
    seen = set(known)
    for job in jobs:
        key = _key_of(job)
        if key is not None:
            if key in seen:
                continue
            seen.add(key)
        fresh.append(job)
    return fresh


def _ids(
    jobs: Sequence[NewJob],
    fresh: Sequence[NewJob],
    fresh_ids: Sequence[str],
    known: Mapping[TypeKey, str],
) -> list[str]:
    """Return the id of each job: a new one, or that of the job that has its key."""
    by_key = dict(known)
    for job, id_ in zip(fresh, fresh_ids, strict=True):
        key = _key_of(job)
        if key is not None:
            by_key[key] = id_
    without_key = (id_ for job, id_ in zip(fresh, fresh_ids, strict=True) if not job.key)
    keys = (_key_of(job) for job in jobs)
    return [next(without_key) if key is None else by_key[key] for key in keys]


def _job_line(job: NewJob, digests: Mapping[TypeKey, str], now: int) -> bytes:
    due = job.when.due_at(now)
    key = _key_of(job)
    line = JobLine(
        type=job.type,
        data=job.data.decode("utf-8"),
        dt=due if due > now else 0,
        key=job.key,
        digest=digests[key] if key is not None else "",
    )
    return _encode_line(line)
