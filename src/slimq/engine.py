"""The engine thread: runs the steps of stages 3 to 9 in turn, and waits when nothing is due.

What the store does to record the runs that ended may go on beside the other steps, a lot at a
time; all that follows from it is done here.

While the store cannot be used it tries again with growing pauses; the journal goes on
accepting, and what ran is finished later.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

from slimq.core.limits import LEASE_MS, SCAN_TYPES_MAX
from slimq.dispatch import Dispatcher
from slimq.errors import DiskFull, JournalFailed, OperatorError, StoreUnavailable
from slimq.finish import Finisher, Summary, at_once
from slimq.ingest import Ingester
from slimq.janitor import Janitor
from slimq.journal.record import Position
from slimq.runner.flight import Flight, first_ids
from slimq.scheduler import Scheduler
from slimq.store.base import EngineStore, Freed, StoreFacts, StoreFull
from slimq.system.chance import Chance
from slimq.system.clock import Clock
from slimq.system.log import EventLog

SCAN_S = 1.0  # other nodes may have added work, or set something
SOON_MS = 1_000  # what is due later is found by a scan in time
CHECK_MS = 10_000  # whether the store fell back; at once when it was away
SCAN_PAGE_S = 0.05  # between the pages of one look, when there is nothing else to do
SAFE_EVERY_MS = 30_000
GATHER_MS = 5  # after a small ingest: what comes meanwhile goes into one transaction
GATHER_JOBS = 1_000  # and this is no small one
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 2.0  # up to twice as long, by chance: nodes come back one by one
FACTS_MS = 15_000
DOUBT_EVERY_MS = 3_000
LOT_FLIGHTS = 256  # that are recorded together
COUNTERS = ("ingested", "purged", "freed", "leases_lost", "stale_completions")


class Facts(NamedTuple):
    """How the engine is, for people. `oldest_waiting_ms` is how long the job that waits
    longest has been due, as far as this node knows; up to a second old."""

    store_error: str | None
    store: StoreFacts | None
    oldest_waiting_ms: int
    running_batches: int
    running_jobs: int


class Lot(NamedTuple):
    """Flights that ended, and are recorded together."""

    flights: list[Flight]
    recorded: Future[Summary]


class SysidTaken(Exception):
    """48 random bits met twice. The next start draws others."""


class Engine:
    """`moved` is called with the ids of jobs that moved, `safe` with how far the journal
    is safely stored; `tell` tells other nodes that there are jobs for them; `alarm` is set
    when there is something to do at once. `submit` lets the finisher work, here or on a thread
    of its own. All but `run`, `turn` and `step` may be called from other threads."""

    def __init__(
        self,
        *,
        store: EngineStore,
        clock: Clock,
        chance: Chance,
        ingester: Ingester,
        scheduler: Scheduler,
        dispatcher: Dispatcher,
        finisher: Finisher,
        janitor: Janitor,
        log: EventLog,
        moved: Callable[[list[str]], None],
        safe: Callable[[Position], None],
        tell: Callable[[Literal["jobs"]], None] = lambda what: None,
        submit: Callable[..., Future[Any]] = at_once,
        gather_ms: int = GATHER_MS,
        alarm: threading.Event | None = None,
    ) -> None:
        self._store, self._ingester, self._scheduler = store, ingester, scheduler
        self._dispatcher, self._finisher, self._janitor = dispatcher, finisher, janitor
        self._clock, self._chance = clock, chance
        self._log = log
        self._moved, self._safe = moved, safe
        self._wake = alarm or threading.Event()
        self._landed: deque[Flight] = deque()
        self._lot: Lot | None = None  # that is being recorded
        self._submit = submit
        self._registered = False
        self._control_version = -1
        self._renew_now = False
        self._scan_at = self._check_at = self._safe_at = 0  # boot time
        self._ingest_at = self._retry_at = 0  # boot time
        self._pause = PAUSE_MIN_S  # after the next step that fails
        self._tell = tell
        self._gather_ms = gather_ms
        self._scan_after = ""
        self._oldest_waiting_ms = 0
        self._damaged_pieces = 0
        self.store_error: str | None = None
        self._store_facts: StoreFacts | None = None
        self._facts_at = 0  # boot time
        self._doubt_at = self._doubt_until = 0  # boot time
        self.stopped = False
        self._draining = False
        self.holds = threading.Event()  # it drains, and no step that could start runs is left
        self.want_safe = False
        self._ended = False
        self.holds_no_lease = False  # once it has ended
        self.look_again = False
        self._others_added = False
        self.counters: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()

    def wake(self) -> None:
        self._wake.set()

    def accepted(self) -> None:
        """The journal has more. That is no news under load, when `_patience` looks by itself,
        nor while the store is down."""
        if self._clock.boot_ms() >= max(self._ingest_at, self._retry_at):
            self._wake.set()

    def heard(self, what: Literal["jobs", "control"]) -> None:
        """Another node, or an application, says that there are jobs, or that people changed
        something. It is no more than a hint."""
        if what == "control":
            self.look_again = True
        elif self.stopped or self._draining:
            return
        self._others_added = True
        self._wake.set()

    def landed(self, flight: Flight) -> None:
        """A flight ended; called on the loop."""
        self._landed.append(flight)
        self._wake.set()

    def drain(self) -> None:
        """Start nothing more; what runs goes on. `holds` is set when that is so."""
        self._draining = True
        self._wake.set()

    def end(self) -> None:
        """Let `run` return after one more step."""
        self._ended = True
        self._wake.set()

    def facts(self) -> Facts:
        return Facts(
            self.store_error,
            self._store_facts,
            self._oldest_waiting_ms,
            len(self._dispatcher.flights),
            self._dispatcher.running_jobs,
        )

    def run(self) -> None:
        try:
            while not self._ended:
                self._wake.clear()
                self._wake.wait(self.turn())
            self._last_step()
        finally:
            self.holds.set()

    def turn(self) -> float:
        """Do a step, and what follows from how it ends; return for how many seconds nothing
        is due, unless somebody wakes the engine."""
        if self._draining:
            self.holds.set()
        try:
            busy = self.step()
        except OperatorError as error:  # of the store, or of reading the journal
            return self._failed(error)
        if self.store_error is not None:
            self._log.info("store.available")
        self.store_error, self._pause, self._retry_at = None, PAUSE_MIN_S, 0
        return 0 if busy else self._patience()

    def _failed(self, error: OperatorError) -> float:
        """Take note of a step that failed; return how long to wait before the next."""
        boot = self._clock.boot_ms()
        if self.store_error is None:
            self._log.error("store.unavailable", reason=error.detail)
        self.store_error = error.detail
        if isinstance(error, StoreUnavailable):
            self._doubt_at, self._doubt_until = 0, boot + LEASE_MS
            self._renew_now = True  # it may have lost leases and permits
            self._control_version = -1  # and settings: its versions may count anew
        if isinstance(error, StoreFull):
            self._ingester.make_room()
        wait = self._pause * (1 + self._chance.uniform())
        self._check_at = 0
        self._facts_at, self._retry_at = 0, boot + int(wait * 1000)
        self._pause = min(self._pause * 2, PAUSE_MAX_S)
        return wait

    def step(self) -> bool:
        """Do one bounded piece of everything that is due; return whether there is more.
        Raises OperatorError: of the store at once, of reading the journal at the end."""
        if not self._registered:
            self._begin()
        self._look_again()
        self._set_control()
        landed = self._finish()  # before ingest: it must not wait for a journal that fails
        self._give_back_unknown()
        self._renew()
        ingested, failure = False, None
        try:
            ingested = self._ingest()
        except (JournalFailed, DiskFull) as error:  # what is in the store runs all the same
            failure = error
        self._tend()
        self._scan()
        started = 0
        if not self.stopped and not self._draining:
            started = self._dispatcher.step()
        self._ask_facts()
        self._keep_safe()
        if failure is not None:
            raise failure
        return bool(ingested or landed or started)

    def _begin(self) -> None:
        while self._freed(self._janitor.free_former()):
            pass
        self._registered = self._janitor.register()
        if not self._registered:
            raise SysidTaken("another living node has the sysid of this one: start again")

    def _look_again(self) -> None:
        """Something was changed by hand: see it now, not within a second."""
        if self.look_again:
            self.look_again = False  # first: what is changed meanwhile is for the next step
            self._control_version = -1  # what the store remembers of it may be a second old
            self._scan_at = 0
            self._renew_now = True
        if self._others_added:
            self._others_added = False
            self._scan_at = 0

    def _set_control(self) -> None:
        if self._control_version != self._store.control_version():
            control = self._store.control()
            self._scheduler.set_control(control, self._store.now())
            self._control_version = control.version

    def _ask_facts(self) -> None:
        """Let the store say how it is; log what is new among its warnings."""
        boot = self._clock.boot_ms()
        if boot < self._facts_at:
            return
        facts = self._store.facts()
        known = self._store_facts.warnings if self._store_facts else []
        for warning in facts.warnings:
            if _subject(warning) not in map(_subject, known):
                self._log.warning("store.warning", reason=warning)
        self._store_facts, self._facts_at = facts, boot + FACTS_MS

    def _give_back_unknown(self) -> None:
        """After the store could not be used, its leases may be others than those that this
        node knows, for as long as an old transaction may still come to its end."""
        boot = self._clock.boot_ms()
        if not self._doubt_at <= boot < self._doubt_until:
            return
        count = self._dispatcher.give_back_unknown()
        self._doubt_at = boot + DOUBT_EVERY_MS
        if count:
            self._scan_at = 0
            self._log.warning("jobs.released", count=count)

    def _renew(self) -> None:
        renew_now, self._renew_now = self._renew_now, False  # it stays due when the store fails
        recorded = self._lot.flights if self._lot is not None else ()
        lost = self._dispatcher.renew(now=renew_now, without=recorded)
        self.counters["leases_lost"] += lost

    def _ingest(self) -> bool:
        if self._clock.boot_ms() < self._ingest_at:
            return False
        ingested = self._ingester.step()
        self._report_damage()
        if ingested is None:
            return self._ingester.behind
        if ingested.added + ingested.skipped < GATHER_JOBS:
            self._ingest_at = self._clock.boot_ms() + self._gather_ms
        self.counters["ingested"] += ingested.added
        now = self._store.now()
        self._due(ingested.heads, now)
        if self.stopped and any(at <= now + SOON_MS for at in ingested.heads.values()):
            self._tell("jobs")  # a node that runs takes them itself, as soon
        return True

    def _report_damage(self) -> None:
        pieces = self._ingester.damaged_pieces
        if pieces > self._damaged_pieces:
            self._damaged_pieces = pieces
            self._log.error("journal.damaged", pieces=pieces, do="slimq journal check")

    def _due(self, heads: dict[str, int], now: int) -> None:
        for type_, at in heads.items():
            self._scheduler.due(type_, at, now)

    def _finish(self) -> bool:
        """Let runs that ended be recorded; return whether some were."""
        settled = self._settle()
        if self._lot is None and self._landed:
            self._lot = self._record()
            self._lot.recorded.add_done_callback(lambda _: self._wake.set())
            settled |= self._settle()
        return settled

    def _record(self) -> Lot:
        count = min(LOT_FLIGHTS, len(self._landed))
        flights = [self._landed.popleft() for _ in range(count)]
        ran = [flight for flight in flights if flight.ran is not None]
        try:
            for flight in flights:
                if flight.ran is None:  # it was killed
                    self._dispatcher.release(flight)
        except StoreUnavailable:
            self._landed.extendleft(reversed(flights))
            raise
        return Lot(flights, self._submit(self._finisher.finish, ran, self._store.now()))

    def _settle(self) -> bool:
        """Take note of what is recorded; return whether something is. All that the store does
        comes before: when it fails there, the whole is done again, and a flight must not land
        twice. After a failure, and at the end, nothing goes on beside it."""
        lot = self._lot
        waits = self.store_error is not None or self._ended
        if lot is None or not (lot.recorded.done() or waits):
            return False
        self._lot = None
        try:
            summary = lot.recorded.result()
        except StoreUnavailable:
            self._landed.extendleft(reversed(lot.flights))
            raise
        now = self._store.now()
        for flight in lot.flights:
            self._dispatcher.landed(flight, now)
            if flight.ran is None:
                self._scheduler.due(flight.batch.type, now, now)
        self._due(summary.heads, now)
        self.outcomes.update(summary.outcomes)
        self.counters["stale_completions"] += len(summary.stale)
        self._log_completed(lot, summary)
        self._moved([job.id for flight in lot.flights for job in flight.batch.jobs])
        return True

    def _log_completed(self, lot: Lot, summary: Summary) -> None:
        ran = [flight for flight in lot.flights if flight.ran is not None]
        if ran:
            count = sum(summary.outcomes.values())
            self._log.info("jobs.completed", count=count, **summary.outcomes, ids=first_ids(ran))

    def _tend(self) -> None:
        freed = self._janitor.step()
        self.counters["purged"] = self._janitor.purged
        if freed is not None:
            self._freed(freed)

    def _freed(self, freed: Freed) -> int:
        """Take note of jobs that nobody runs any more; return how many they are."""
        count = freed.again + freed.dead
        if count:
            self.counters["freed"] += count
            self._log.warning("jobs.freed", again=freed.again, dead=freed.dead)
            self._due(freed.heads, self._store.now())
        return count

    def _scan(self) -> None:
        """Look for work that other nodes added, a page at a time."""
        boot, now = self._clock.boot_ms(), self._store.now()
        if boot < self._scan_at:
            return
        if not self._scan_after and boot >= self._check_at:
            self._ingester.check_cursor()
            self._check_at = boot + CHECK_MS
        oldest_at = self._scheduler.oldest_at()
        self._oldest_waiting_ms = 0 if oldest_at is None else max(0, now - oldest_at)
        found = self._store.due(now + 2_000, self._scan_after, SCAN_TYPES_MAX)
        for type_, at in found:
            self._scheduler.due(type_, at, now)
        if len(found) == SCAN_TYPES_MAX:
            self._scan_after = found[-1].type
        else:
            self._scan_after, self._scan_at = "", boot + int(SCAN_S * 1000)
            self._set_control()  # what the scan has learned of it

    def _keep_safe(self) -> None:
        boot = self._clock.boot_ms()
        if boot >= self._safe_at or self.want_safe:
            position = self._ingester.position
            self.want_safe = False
            self._safe_at = boot + 1_000
            if self._ingester.keep_safe():
                self._safe(position)
                self._safe_at = boot + SAFE_EVERY_MS

    def _last_step(self) -> None:
        try:
            while self._finish():
                pass
            self.holds_no_lease = True
            self._ingester.step()
            self._ingester.keep_safe()
        except OperatorError as error:  # the journal has it still, and leases end by themselves
            self._log.warning("store.unavailable", reason=error.detail)

    def _patience(self) -> float:
        """Return how long nothing is due, in seconds."""
        gathering_ms = self._ingest_at - self._clock.boot_ms()  # first: so long nobody wakes
        if gathering_ms > 0 or self._ingester.behind:
            return max(0, gathering_ms) / 1000
        if self._scan_after:
            return SCAN_PAGE_S
        next_at = self._scheduler.next_at()
        if next_at is None or self.stopped or self._draining:
            return SCAN_S
        return min(SCAN_S, max(0.001, (next_at - self._store.now()) / 1000))


def _subject(warning: str) -> str:
    """Return a warning without its figures, which change."""
    return re.sub(r"[0-9.,]+", "", warning)
