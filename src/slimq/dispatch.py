"""Stage 6, dispatch: claim a batch, hand it over, renew its leases."""

from __future__ import annotations

from collections.abc import Callable, Collection

from slimq.core.job import Batch, Job
from slimq.core.lifecycle import Lease
from slimq.core.limits import BATCH_BYTES_MAX, CLAIM_MAX, LEASE_MS, RENEW_MS
from slimq.permits import Question
from slimq.runner.flight import Flight
from slimq.scheduler import Pick, Scheduler
from slimq.store.base import EngineStore
from slimq.system.clock import Clock


class Dispatcher:
    """`start` and `kill` hand flights to the event loop. Driven by `step`."""

    def __init__(
        self,
        store: EngineStore,
        scheduler: Scheduler,
        clock: Clock,
        sysid: str,
        start: Callable[[list[Flight]], None],
        kill: Callable[[list[Flight]], None],
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._sysid = sysid
        self._start = start
        self._kill = kill
        self._renewed_at = 0
        self._lost: set[Lease] = set()  # of runs that did not end yet
        self._crashing: set[str] = set()  # types whose last claim brought jobs with crashes
        self._surplus: list[Lease] = []  # claimed, and not given back yet
        self.flights: dict[Flight, None] = {}  # in order of their start
        self.running_jobs = 0  # read by other threads

    def step(self) -> int:
        """Start what may start; return how many jobs. Raises StoreUnavailable."""
        count = 0
        while True:
            self._ask(self._scheduler.question(self._store.now()))
            pick = self._scheduler.choose(self._store.now())
            if pick is None:
                return count
            count += self._claim(pick)

    def landed(self, flight: Flight, now: int) -> None:
        """A flight is over and its jobs are finished or lost."""
        batch = flight.batch
        self.flights.pop(flight, None)
        self.running_jobs -= len(batch.jobs)
        self._scheduler.ended(batch.type, batch.handler, now)

    def renew(self, *, now: bool = False, without: Collection[Flight] = ()) -> int:
        """Extend all leases when it is time, but for those of flights that are just being
        recorded, which go with that; stop runs that lost all of theirs. Return how many
        leases were lost since the last time."""
        self._give_back()
        boot = self._clock.boot_ms()
        if now:
            self._renewed_at = 0  # it is due then, also when the store fails
        spared = set(without)
        flights = [flight for flight in self.flights if flight not in spared]
        if not flights or boot - self._renewed_at < RENEW_MS:
            return 0
        self._ask(self._scheduler.held())  # before: no run goes on without its permit
        lost = self._renew(flights)
        self._renewed_at = boot
        for flight in flights:
            flight.deadline_ms = boot + LEASE_MS
        fresh, self._lost = lost - self._lost, lost
        if fresh:
            over = [flight for flight in flights if lost.issuperset(_leases(flight))]
            self._kill([flight for flight in over if not fresh.isdisjoint(_leases(flight))])
        return len(fresh)

    def release(self, flight: Flight) -> None:
        """Give back the jobs of a flight that was killed, but for those that another flight
        has as well: claimed anew, and with the same attempt where the store fell back."""
        others = (other for other in self.flights if other is not flight)
        kept = {job.id for other in others for job in other.batch.jobs}
        self._store.release(self._sysid, [each for each in _leases(flight) if each.id not in kept])

    def give_back_unknown(self) -> int:
        """Release what the store says that this node holds, and it does not: the answer to a
        claim got lost, or the store fell back behind the end of a run. Return how many."""
        known = {job.id for flight in self.flights for job in flight.batch.jobs}
        known.update(lease.id for lease in self._surplus)
        unknown = {each for each in self._store.leases(self._sysid) if each.id not in known}
        return self._store.release(self._sysid, sorted(unknown)) if unknown else 0

    def _ask(self, question: Question) -> None:
        """Ask for the permits of limits that hold for all nodes."""
        if question.asks:
            permits = self._store.permit(self._sysid, question.asks, lease_ms=LEASE_MS)
            self._scheduler.answered(question, permits, self._store.now())

    def _claim(self, pick: Pick) -> int:
        options = pick.handler.options
        limit = min(pick.batches * pick.batch_size, CLAIM_MAX)
        if pick.type in self._crashing:
            limit = pick.batches  # each may have to go alone
        boot = self._clock.boot_ms()  # before the claim: the lease counts from then at the latest
        try:
            claim = self._store.claim(
                pick.type,
                self._sysid,
                limit,
                lease_ms=LEASE_MS,
                bytes_max=BATCH_BYTES_MAX,
                full=pick.batch_size if options.batch_window_ms else 0,
                window_ms=options.batch_window_ms,
                ordered=options.ordered,
            )
        except BaseException:
            self._scheduler.claimed(pick, 0, 0, 0, 0)  # ready still: asked again when it can be
            raise
        started = self._store.now()
        batches = _cut(claim.jobs, pick.batch_size)
        flights = [
            Flight(Batch(pick.type, pick.handler, jobs), started, boot + LEASE_MS)
            for jobs in batches[: pick.batches]
        ]
        surplus = [_lease(job) for jobs in batches[pick.batches :] for job in jobs]
        if any(job.crashes for job in claim.jobs):
            self._crashing.add(pick.type)
        else:
            self._crashing.discard(pick.type)
        self.flights.update(dict.fromkeys(flights))
        count = len(claim.jobs) - len(surplus)
        self.running_jobs += count
        next_at = started if surplus else claim.next_at
        self._scheduler.claimed(pick, len(flights), count, next_at, started)
        if flights:
            self._start(flights)
        self._surplus += surplus
        self._give_back()
        return count

    def _give_back(self) -> None:
        """Release what was claimed beyond the batches that may start."""
        if self._surplus:
            self._store.release(self._sysid, self._surplus)
            self._surplus = []

    def _renew(self, flights: Collection[Flight]) -> set[Lease]:
        """Extend their leases; return those that are lost. A job that lost its lease may be
        in the air twice: of two runs the older one has lost it."""
        newest: dict[str, int] = {}
        for flight in flights:
            for job in flight.batch.jobs:
                newest[job.id] = max(job.attempt, newest.get(job.id, 0))
        leases = [Lease(id_, attempt) for id_, attempt in newest.items()]
        lost = self._store.renew(self._sysid, leases, lease_ms=LEASE_MS)
        if not lost and len(leases) == sum(len(flight.batch.jobs) for flight in flights):
            return set()
        in_air = (lease for flight in flights for lease in _leases(flight))
        return {lease for lease in in_air if lease.id in lost or lease.attempt < newest[lease.id]}


def _lease(job: Job) -> Lease:
    return Lease(job.id, job.attempt)


def _leases(flight: Flight) -> list[Lease]:
    return [_lease(job) for job in flight.batch.jobs]


def _cut(jobs: list[Job], size: int) -> list[list[Job]]:
    """Cut claimed jobs into batches. One that killed a node or context before is alone."""
    alone = [[job] for job in jobs if job.crashes]
    rest = [job for job in jobs if not job.crashes] if alone else jobs
    return [rest[start : start + size] for start in range(0, len(rest), size)] + alone
