"""One simulation: some nodes on one store, callers, people and faults, for so many hours; then
everything is healed, and everything must come to its end."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

from sim.invariants import check_all, check_end, check_journal
from sim.ledger import Ledger, require
from sim.node import SimNode
from sim.parts import SimClock
from sim.runs import Runs
from sim.stores import MemoryRig, SqliteRig
from sim.traffic import HANDLERS, Traffic, handler_of
from sim.trouble import Trouble
from sim.witness import Witness
from sim.world import START_MS, World
from slimq.core.jobid import block_from, child_id
from slimq.errors import SlimqError
from slimq.journal.append import Append
from slimq.runner.flight import Flight
from slimq.store.base import Policy

HOUR_MS = 3_600_000
CHECK_MS = 60_000
SETTLE_MS = 6 * HOUR_MS
BUFFERED_MS = 55  # 50, and the turn of the committer
Opened = Callable[[], Any]


class Request:
    """One record on its way into a journal: "open", then "durable", "refused" or "lost"."""

    def __init__(self, ids: list[str], node: SimNode) -> None:
        self.ids = ids
        self.node = node
        self.fate = "open"
        self.level = ""
        self.acked_at = -1


class Born(NamedTuple):
    """What a run added, and the status that it gave its job."""

    node: SimNode
    status: int
    ids: list[str]


class Story:
    def __init__(self, seed: int, hours: float) -> None:
        self.seed, self.hours = seed, hours
        self.world = world = World(seed)
        self.log = io.StringIO()
        self.ledger, self.runs = Ledger(), Runs()
        self.store_down = False
        self.links = 0  # a store that fell back is another server: all connections are cut
        self.requests: dict[str, Request] = {}
        self.acked_ids: set[str] = set()
        self.unstored: dict[SimNode, dict[str, None]] = {}
        self.by_key: dict[tuple[str, str], set[str]] = {}
        self.children: dict[tuple[str, str, int], Born] = {}
        self.expected_children: set[str] = set()
        self.refused = self.acks = 0
        self._sysids: dict[str, SimNode] = {}
        self._owners: dict[str, SimNode] = {}  # in whose journal an acknowledged job is
        chance = world.chance
        if chance.random() < 0.3:
            machine = SimClock(world, START_MS, chance.randrange(1, 1 << 30))
            self.rig: MemoryRig | SqliteRig = SqliteRig(machine)
            clocks = [machine, machine]
        else:
            self.rig = MemoryRig(SimClock(world, START_MS, 77_000))
            count = chance.choice((2, 3))
            clocks = [SimClock(world, START_MS, chance.randrange(1, 1 << 30)) for _ in range(count)]
        self.nodes = [SimNode(self, number, clock) for number, clock in enumerate(clocks)]
        for node in self.nodes:
            node.answers_arrive = isinstance(self.rig, SqliteRig)
            self.unstored[node] = {}
        self.witness = Witness(self)
        self.traffic = Traffic(self)
        self.trouble = Trouble(self)
        self.ending = False

    def run(self) -> None:
        """Raises Violation."""
        try:
            self._play()
        finally:
            self.ending = True
            for node in self.nodes:
                self.world.kill(node.process)
            self.rig.close()

    def _play(self) -> None:
        for jobtype in HANDLERS:
            self.rig.look().put_handler(handler_of(jobtype, 0))
        for node in self.nodes:
            node.start()
        self._every(CHECK_MS, lambda: check_all(self))
        self._busy = True
        self.world.at(1_000, "callers", self._callers)
        self.trouble.begin()
        self.world.run(int(self.hours * HOUR_MS))
        self._heal()
        settled = self._settle()
        check_end(self, settled)

    def _callers(self) -> None:
        chance = self.world.chance
        if self._healing:
            return
        if chance.random() < 0.02:
            self._busy = not self._busy
        self.traffic.add()
        if chance.random() < 0.08:
            self.traffic.change()
        mean = 4_000 if self._busy else 40_000
        self.world.at(1 + int(chance.expovariate(1 / mean)), "callers", self._callers)

    def _every(self, ms: int, act: Callable[[], None]) -> None:
        def turn() -> None:
            act()
            self.world.at(ms, "every", turn)

        self.world.at(ms, "every", turn)

    _healing = False

    def _heal(self) -> None:
        """From now on nothing goes wrong, but what is in the data of jobs."""
        self.world.note("all is healed")
        self._healing = True
        self.trouble.end()
        store = self.rig.look()
        for jobtype in HANDLERS:
            store.put_handler(handler_of(jobtype, 0))
            for client in ("*", "acme"):
                store.put_policy(Policy(client=client, jobtype=jobtype, paused=False))

    def _settle(self) -> bool:
        end = self.world.now + SETTLE_MS
        while self.world.now < end:
            self.world.run(self.world.now + 5_000)
            waits = any(row.lock != "__done" for row in self.ledger.rows.values())
            up = all(node.up and not node.ingester.behind for node in self.nodes)
            if up and not waits and not any(self.unstored.values()):
                return True
        return False

    # Nodes.

    def any_up(self) -> SimNode | None:
        up = [node for node in self.nodes if node.up and not node.quitting]
        return self.world.chance.choice(up) if up else None

    def store_of(self, node: SimNode, role: str) -> Opened:
        return self.rig.opener(node, role)

    def closed(self, node: SimNode) -> None:
        self.rig.closed(node)

    def node_up(self, node: SimNode) -> None:
        self._sysids[node.sysid] = node
        check_journal(self, node)

    def node_died(self, node: SimNode) -> None:
        if not self.ending:
            chance = self.world.chance
            pause = 1_000 if self._healing else chance.choice((300, 2_000, 20_000, 90_000))
            self.world.at(pause, f"{node.name} is started", lambda: self._start(node))

    def _start(self, node: SimNode) -> None:
        if not node.process.alive:
            node.start()

    def cut_power(self, node: SimNode) -> None:
        """Of its machine: that has all nodes of a SQLite file."""
        if isinstance(self.rig, MemoryRig):
            node.lose_power()
            return
        for each in self.nodes:
            each.lose_power()
        before = self._saved_ledger
        if self.rig.lose_power(self.world.chance) and before is not None:
            self._fell_back(before)
        for row in self.ledger.running.values():
            row.dt = 0  # after a boot no lease holds
        self.witness.booted()

    _saved_ledger: Any = None

    def save_store(self) -> None:
        self._saved_ledger = self.ledger.snapshot()
        if isinstance(self.rig, MemoryRig):
            self.rig.save()

    def fall_back(self) -> None:
        assert isinstance(self.rig, MemoryRig), "a file falls back with its machine"
        self.rig.fall_back()
        self.links += 1
        self.world.fault("store fell back")
        self._fell_back(self._saved_ledger)

    def _fell_back(self, snapshot: Any) -> None:
        self.ledger.restore(snapshot)
        self._saved_ledger = None if isinstance(self.rig, MemoryRig) else self.ledger.snapshot()
        self.runs.fell_back_at = self.world.now
        for node in self.nodes:
            self.unstored[node].clear()
        for id_ in sorted(self.acked_ids):
            if not self.ledger.knows(id_):
                self.unstored[self._owners[id_]][id_] = None
        for node in self.nodes:
            if node.up:
                check_journal(self, node)

    # Requests.

    def submitted(self, node: SimNode, append: Append) -> None:
        ids = block_from(append.header.id, append.header.count).ids()
        self.requests[ids[0]] = Request(ids, node)

    def delivered(self, node: SimNode, group: list[Append]) -> None:
        for append in group:
            request = self.requests.get(append.header.id)
            if request is not None:
                request.fate = "durable" if append.error is None else "refused"

    def note_refused(self, node: SimNode, error: SlimqError) -> None:
        self.refused += 1
        self.world.note(f"{node.name} refuses: {type(error).__name__}")

    def acked(self, node: SimNode, ids: list[str], level: str, replayed: bool) -> None:
        self.acks += 1
        self.world.note(f"{node.name} acknowledges {len(ids)} from {ids[0]} {level}")
        request = self.requests.get(ids[0])
        if request is not None and not replayed:
            require(request.fate == "durable", "acknowledged before it is durable", ids[0])
            request.acked_at, request.level = self.world.now, level
        if level == "store":
            known = all(map(self.ledger.knows, ids))
            require(known or self.runs.fell_back_at >= 0, "not in the store, as was said", ids[0])
        self.owe(node, ids)

    def owe(self, node: SimNode, ids: list[str]) -> None:
        """These are acknowledged: they are in a journal or in the store from now on."""
        for id_ in ids:
            if id_ not in self.acked_ids:
                self.acked_ids.add(id_)
                self._owners[id_] = self._sysids.get(id_[8:16], node)
                if not self.ledger.knows(id_):
                    self.unstored[self._owners[id_]][id_] = None

    def keyed(self, type_: str, key: str, body: bytes, ids: list[str]) -> None:
        self.by_key.setdefault((type_, key), set()).add(ids[0])

    def buffered_lost(self, node: SimNode, firsts: list[str]) -> None:
        """A power cut may take what was acknowledged as buffered in the last 50 ms."""
        for first in firsts:
            request = self.requests[first]
            request.fate = "lost"
            is_old = 0 <= request.acked_at < self.world.now - BUFFERED_MS
            is_calm = node.calm_since < request.acked_at
            require(not (is_old and is_calm), "lost, and acknowledged long before", first)
            for id_ in request.ids:
                self.acked_ids.discard(id_)
                self.unstored[node].pop(id_, None)

    # Runs.

    def landed(self, node: SimNode, flight: Flight) -> None:
        if flight.ran is not None:
            ran = flight.ran
            added = ran.children or [[] for _ in ran.results]
            for job, result, children in zip(flight.batch.jobs, ran.results, added, strict=True):
                run = (node.sysid, job.id, job.attempt)
                self.children.pop(run, None)  # of a run before the store fell back
                if children:
                    ids = [child_id(job.id, ordinal) for ordinal in range(len(children))]
                    self.children[run] = Born(node, result.status, ids)
                    self.expected_children.update(ids)

    # The result.

    @property
    def command(self) -> str:
        """What plays it again."""
        return f"python tests/sim/run.py --seed {self.seed} --hours {self.hours:g}"

    def figures(self) -> dict[str, Any]:
        return {
            "hours": round(self.world.now / HOUR_MS, 2),
            "jobs": len(self.acked_ids),
            "runs": self.runs.count,
            "faults": sum(self.world.faults.values()),
            "trace": self.world.trace_hash,
        }
