"""What holds of whole engines in any order of events.

Two nodes share one store and lose it, crash, stall and come back, while jobs come in and
run. One records what ran at once, the other beside its steps. Nobody waits: the machine owns
the clock, and ends runs as the loop would.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from engine_kit import Beside, Rig, child, handler, ids_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slimq.core.job import Result
from slimq.core.jobid import block_from, child_id
from slimq.core.lifecycle import DONE
from slimq.core.limits import LEASE_MARGIN_MS
from slimq.journal.record import JobLine
from slimq.runner.flight import Flight
from slimq.store.base import Policy

SLOTS = 4
CLIENT_SLOTS = 3
WATCH_MS = 1000
TYPES = ["a/wide", "b/wide", "a/narrow", "b/narrow", "a/ordered"]
NARROW = 2  # batches at a time
VARIANTS = {
    "wide": [{"batch_size": 10, "batch_window": "1s"}, {"batch_size": 2, "max_failures": 2}],
    "narrow": [{"batch_size": 3, "concurrency": NARROW}, {"batch_size": 1, "concurrency": NARROW}],
    "ordered": [{"ordered": True, "max_age": "60s"}],
}
BACKOFF = {"backoff": {"min": "1s", "max": "2s"}}
CALLS = ["claim", "finish", "finish", "finish", "ingest", "renew", "release", "free", "due", "beat"]
RESULTS = [
    Result(200, b"ok"),
    Result(400),
    Result(102, retry_after_ms=2000),
    Result(102),
    Result(500),
    Result(520, crashed=True),
]
NODES = [0, 1]
RECORD_STEPS = 3  # until a node that does it beside its steps has recorded what ran

nodes = st.sampled_from(NODES)
jobtypes = st.sampled_from([*VARIANTS])


class Born(NamedTuple):
    """Jobs that a run added: they must be known once the store knows how the run ended."""

    sysid: str
    parent: str
    attempt: int
    status: int
    ids: list[str]


class Engines(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        first = self.rig(0)
        self.beside = Beside()
        second = {"store": first.memory, "clock": first.clock, "submit": self.beside.submit}
        self.rigs = [first, self.rig(1, **second)]
        self.memory, self.clock = first.memory, first.clock
        self.boots = [[rig.sysid] for rig in self.rigs]
        self.acked: set[str] = set()
        self.lines: set[str] = set()  # of these, those that came in as lines
        self.ingested: set[str] = set()
        self.seen_calls = [0, 0]
        self.born: list[Born] = []
        self.attempts: dict[str, int] = {}
        self.ended: dict[str, Any] = {}
        for jobtype in VARIANTS:
            self.put(jobtype, 0)

    def rig(self, node: int, **wants: Any) -> Rig:
        path = Path(self.folder.name, f"journal{node}")
        return Rig(path, sysid=f"node{node}000", slots=SLOTS, segment_bytes=1500, **wants)

    def teardown(self) -> None:
        try:
            self.everything_ends_well()
        finally:
            for rig in self.rigs:
                rig.close()
            self.folder.cleanup()

    # What happens.

    @initialize(count=st.integers(1, 12))
    def some_jobs_run(self, count: int) -> None:
        for node, type_ in zip([0, 1, 0, 1, 0], TYPES, strict=True):
            ids = self.rigs[node].add(*[b"first"] * count, type=type_)
            self.acked.update(ids)
            self.lines.update(ids)
        for node in NODES:
            self.step(node)

    @rule(
        node=nodes,
        type_=st.sampled_from(TYPES),
        count=st.integers(1, 7),
        delay=st.sampled_from([0, 0, 0, 700, 40_000]),
        key=st.sampled_from(["", "", "", "k1"]),
        steps=st.integers(0, 2),
    )
    def add(self, node: int, type_: str, count: int, delay: int, key: str, steps: int) -> None:
        rig = self.rigs[node]
        dt = self.clock.wall_ms() + delay if delay else 0
        lines = [b"%d" % n for n in range(count)]
        ids = rig.add(*lines, type=type_, dt=dt, key=key, digest=key and f"{count}")
        self.acked.update(ids)
        self.lines.update(ids)
        for _ in range(steps):
            self.step(node)

    @rule(node=nodes, types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    def add_explicit_jobs(self, node: int, types: list[str]) -> None:
        ids = self.rigs[node].add_jobs(*(JobLine(type_, "data") for type_ in types))
        self.acked.update(ids)
        self.lines.update(ids)

    @rule(times=st.integers(1, 4))
    def both_go_on(self, times: int) -> None:
        for _ in range(times):
            for node in NODES:
                self.step(node)

    @rule(node=nodes, ms=st.sampled_from([0, 1000]))
    def one_goes_on(self, node: int, ms: int) -> None:
        self.time_passes(ms, stalled=True)
        self.step(node)

    def step(self, node: int) -> None:
        """Let an engine do a step, and the loop what the engine told it."""
        rig = self.rigs[node]
        before = len(rig.air)
        if node == 1:
            self.beside.go_on()
        rig.try_step()
        self.note_started(rig.air[before:])
        self.note_ingested(node)
        killed, rig.killed[:] = [*rig.killed], []
        for flight in killed:
            if flight in rig.air:
                rig.down(flight)

    @rule(node=nodes, data=st.data(), then_step=st.booleans())
    def end_some_runs(self, node: int, data: st.DataObject, then_step: bool) -> None:
        rig = self.rigs[node]
        for flight in data.draw(some_of(rig.air)):
            count = len(flight.batch.jobs)
            chosen = st.lists(st.sampled_from(RESULTS), min_size=count, max_size=count)
            results = [msgspec.structs.replace(result) for result in data.draw(chosen)]
            added = data.draw(
                st.lists(st.integers(0, 2), min_size=count, max_size=count) | st.just([0] * count)
            )
            kinds = data.draw(st.sampled_from(["wide", "narrow"]))
            children = [[child(kinds, b"%d" % n) for n in range(total)] for total in added]
            for job, result, total in zip(flight.batch.jobs, results, added, strict=True):
                if total:
                    ids = [child_id(job.id, n) for n in range(total)]
                    self.born.append(Born(rig.sysid, job.id, job.attempt, result.status, ids))
            rig.land(flight, *results, children=children)
        if then_step:
            self.step(node)

    @rule(result=st.sampled_from(RESULTS), most=st.integers(1, 3))
    def runs_end(self, result: Result, most: int) -> None:
        for node in NODES:
            for flight in self.rigs[node].air[:most]:
                self.rigs[node].land(flight, msgspec.structs.replace(result))
            self.step(node)

    @rule(ms=st.sampled_from([1, 500, 1000, 5000, 10_000, 31_000, 36_000]), stalled=st.booleans())
    def time_passes(self, ms: int, stalled: bool) -> None:
        """Let the loops watch every second, and the engines do their steps or not."""
        while ms > 0:
            self.clock.advance(min(ms, WATCH_MS))
            ms -= WATCH_MS
            self.watch()
            for node in NODES if not stalled else ():
                self.step(node)

    def watch(self) -> None:
        """Do what the loop does every second: kill what could not be renewed."""
        now = self.clock.boot_ms()
        for rig in self.rigs:
            for flight in [f for f in rig.air if now > f.deadline_ms - LEASE_MARGIN_MS]:
                rig.down(flight)

    @rule(node=nodes, what=st.sampled_from(["down", "up", "fails"]), data=st.data())
    def trouble_with_the_store(self, node: int, what: str, data: st.DataObject) -> None:
        store = self.rigs[node].store
        if what == "fails":
            store.fail(data.draw(st.sampled_from(CALLS)), after=data.draw(st.integers(0, 2)))
        else:
            store.down = what == "down"

    @rule(node=nodes, data=st.data(), what=st.sampled_from(["kill", "dies", "refuses", "takes"]))
    def trouble_with_the_node(self, node: int, data: st.DataObject, what: str) -> None:
        rig = self.rigs[node]
        if what == "kill":
            for flight in data.draw(some_of(rig.air)):
                rig.down(flight)
        elif what == "dies":
            self.restart(node)
        else:
            rig.refuse_children = what == "refuses"

    def restart(self, node: int) -> None:
        """Let a process die, with all that it ran, and start again."""
        rig = self.rigs[node]
        boots = self.boots[node]
        rig.close()
        rig.open_journal()
        former = [sysid for sysid in boots if sysid not in rig.forgotten_boots]
        sysid = f"node{node}{len(boots):03}"
        if node == 1:
            self.beside.forget()
        rig.boot(sysid, former)
        boots.append(sysid)

    @rule(
        jobtype=jobtypes,
        what=st.sampled_from(["put", "delete", "pause", "resume", "stop", "start", "cancel"]),
        data=st.data(),
    )
    def somebody_sets_something(self, jobtype: str, what: str, data: st.DataObject) -> None:
        if what == "put":
            self.put(jobtype, data.draw(st.integers(0, 1)))
        elif what == "delete":
            self.memory.delete_handler("*", jobtype)
        elif what in ("stop", "start"):
            self.rigs[data.draw(nodes)].engine.stopped = what == "stop"
        elif what != "cancel":
            self.pause(jobtype, data.draw(st.sampled_from(["*", "a"])), paused=what == "pause")
        elif self.acked:
            self.memory.cancel([data.draw(st.sampled_from(sorted(self.acked)))])
            for rig in self.rigs:
                rig.engine.look_again = True

    def put(self, jobtype: str, variant: int) -> None:
        variants = VARIANTS[jobtype]
        written = variants[variant % len(variants)] | BACKOFF
        self.memory.put_handler(handler(jobtype, "*", **written))

    def pause(self, jobtype: str, client: str, *, paused: bool) -> None:
        self.memory.put_policy(Policy(client=client, jobtype=jobtype, paused=paused))

    # What holds.

    def note_started(self, flights: list[Flight]) -> None:
        for job in (job for flight in flights for job in flight.batch.jobs):
            assert job.attempt > self.attempts.get(job.id, 0), "an attempt was given twice"
            self.attempts[job.id] = job.attempt

    def note_ingested(self, node: int) -> None:
        calls = self.rigs[node].store.calls
        for name, args, _ in calls[self.seen_calls[node] :]:
            if name == "ingest":
                ids = [id_ for new in args[3] for id_ in new.ids if id_ in self.lines]
                assert len(ids) == len(set(ids))
                assert self.ingested.isdisjoint(ids), "a line was ingested twice"
                self.ingested.update(ids)
        self.seen_calls[node] = len(calls)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        missing = {id_ for id_ in self.acked if self.memory.job(id_) is None}
        for rig in self.rigs if missing else ():
            missing.difference_update(waiting_in_journal(rig))
        assert not missing

    @invariant()
    def children_of_an_ended_run_are_durable(self) -> None:
        for born in list(self.born):
            view = self.memory.job(born.parent)
            assert view is not None
            for run in view.runs:
                key = (run.node, run.attempt, run.status)
                if key == (born.sysid, born.attempt, born.status):
                    self.acked.update(born.ids)
                    self.born.remove(born)

    @invariant()
    def a_job_runs_once_at_a_time(self) -> None:
        flying = [id_ for rig in self.rigs for flight in rig.air for id_ in ids_of(flight)]
        assert len(flying) == len(set(flying))

    @invariant()
    def no_limit_is_passed(self) -> None:
        ordered = 0
        for rig in self.rigs:
            assert len(rig.air) <= SLOTS
            narrow = [flight for flight in rig.air if flight.batch.type.endswith("/narrow")]
            assert len(narrow) <= NARROW
            for flight in rig.air:
                if flight.batch.type.endswith("/ordered"):
                    (job,) = flight.batch.jobs
                    view = self.memory.job(job.id)
                    assert view is not None
                    ordered += view.lock == rig.sysid
        assert ordered <= 1

    @invariant()
    def what_is_done_stays_as_it_is(self) -> None:
        for id_ in self.acked:
            view = self.memory.job(id_)
            if view is None:
                continue
            assert view.attempt >= self.attempts.get(view.id, 0)
            if view.lock == DONE:
                assert self.ended.setdefault(view.id, view) == view

    def everything_ends_well(self) -> None:
        for jobtype in VARIANTS:
            self.put(jobtype, 0)
            for client in ("*", "a"):
                self.pause(jobtype, client, paused=False)
        for rig in self.rigs:
            rig.store.heal()
            rig.refuse_children = rig.engine.stopped = False
        for _ in range(600):
            for node in NODES:
                self.step(node)
                for flight in list(self.rigs[node].air):
                    self.rigs[node].land(flight, 200)
            self.time_passes(1000, stalled=True)
            if self.is_over():
                break
        assert self.is_over()
        self.nothing_acknowledged_is_lost()
        self.children_of_an_ended_run_are_durable()
        self.what_is_done_stays_as_it_is()
        self.time_passes(RECORD_STEPS * 1000, stalled=False)  # permits are asked for again
        for node in NODES:
            self.all_slots_are_free(node)

    def is_over(self) -> bool:
        totals = self.memory.totals()
        behind = any(rig.ingester.behind for rig in self.rigs)
        return not behind and totals.waiting == totals.running == 0

    def all_slots_are_free(self, node: int) -> None:
        """No slot was lost on the way, and none was freed twice."""
        rig = self.rigs[node]
        for _ in range(2):
            self.step(node)
        assert not rig.dispatcher.flights
        for type_ in ("a/narrow", "b/wide"):
            self.put(type_.partition("/")[2], 1)
            rig.add(*(b"x" for _ in range(20)), type=type_)
            self.step(node)
            expected = NARROW if type_ == "a/narrow" else CLIENT_SLOTS
            assert len(rig.air) == expected
            while rig.air:
                rig.land(rig.air[0], 200)
                for _ in range(RECORD_STEPS):
                    self.step(node)
            assert self.memory.totals().waiting == 0


def some_of(flights: list[Flight]) -> st.SearchStrategy[list[Flight]]:
    if not flights:
        return st.just([])
    return st.lists(st.sampled_from(flights), min_size=1, max_size=4, unique_by=id)


def waiting_in_journal(rig: Rig) -> Iterator[str]:
    """Yield the ids that the journal holds behind what is ingested."""
    position = rig.ingester.position
    while True:
        entries, following = rig.reader.read(position, 1 << 20)
        for entry in entries:
            yield from block_from(entry.header.id, entry.header.count).ids()
            if entry.header.kind == "jobs":
                lines, _, _ = entry.body.lines(0, entry.header.count, 1 << 20)
                yield from (msgspec.json.decode(line, type=JobLine).id for line in lines)
        if following == position:
            return
        position = following


TestEngines = Engines.TestCase
TestEngines.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
