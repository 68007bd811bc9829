"""Nodes on one PostgreSQL that are killed at random points: their jobs are held for a lease and
a sweep at most, or not at all when they come back, and none is lost (P9, as in
riverqueue/river#1258, with real processes)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from adder_kit import Adder
from node_kit import Node, wait_until

from postgres_kit import Server
from proof_kit import Proof
from slimq.core.limits import CRASHES_MAX, LEASE_MS, SWEEP_MS

COMMAND = ["sh", "-c", "sleep 0.3; sed 's/^/200 /'"]
KEEPERS = 2  # nodes that live; no more than one sweep of each is between two looks at leases
VICTIMS = 3
PAUSE_S = 0.1  # between two requests to one node
LOOK_S = 0.1
BUSY_MS = 2_000  # for a machine that does other things, too
BACK_MS = 5_000  # measured: below 1 s
SETTLED_S = LEASE_MS / 1000 + 60
DATABASE = "jobs"


class Watch(threading.Thread):
    """Notes when each lock was last seen to hold a job, by the clock of the store."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._ended = threading.Event()
        self.seen_at: dict[str, int] = {}
        self.now: set[str] = set()  # who holds jobs

    def run(self) -> None:
        query = "SELECT slimq.now_ms(), array_agg(DISTINCT lock) FROM slimq.job WHERE lock <> ''"
        with self._server.connect(DATABASE) as db:
            while not self._ended.wait(LOOK_S):
                ((now, locks),) = db.execute(query).fetchall()
                self.now = set(locks or ())
                self.seen_at |= dict.fromkeys(self.now, now)

    def close(self) -> None:
        self._ended.set()
        self.join(30)


class Fleet:
    """Nodes that share a PostgreSQL, and what became of them."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._url = server.create_database(DATABASE)
        self._made = ExitStack()
        self._adders: list[Adder] = []
        self._sysids: dict[Node, str] = {}
        self.graves: list[Node] = []  # of nodes that were killed for good
        self.died: dict[str, int] = {}  # sysid: when, by the clock of the store
        self.back: dict[str, int] = {}  # sysid of a boot before: since when its node is back
        self._left: dict[Node, list[str]] = {}  # sysids whose jobs a node has to take back
        self.held = 0  # jobs that nodes held when they were killed

    def node(self) -> Node:
        """Start one more, and callers of it."""
        folder = self._folder / f"node-{len(self._adders)}"
        folder.mkdir()
        node = self._made.enter_context(Node(folder, SLIMQ_STORE__URL=self._url))
        self._sysids[node] = node.call("GET", "/status")["sysid"]
        self._adders.append(Adder(node, folder.name, pause_s=PAUSE_S))
        self._made.callback(self._adders[-1].close)
        return node

    def kill(self, node: Node) -> None:
        """Kill a node. One that had hardly come back has not had the time to take its jobs
        back: they wait for its next boot, or for their leases."""
        sysid = self._sysids[node]
        now = self.died[sysid] = self.store_now()
        left = [s for s in self._left.get(node, ()) if self.back.get(s, 0) > now - BACK_MS]
        for former in left:
            del self.back[former]
        self._left[node] = [*left, sysid]
        node.kill()
        self.held += self.ask("SELECT count(*) FROM slimq.job WHERE lock = %s", sysid)[0][0]

    def restart(self, node: Node) -> None:
        """Let a node that was killed come back, as the same one."""
        node.start()
        self._sysids[node] = node.call("GET", "/status")["sysid"]
        self.back |= dict.fromkeys(self._left[node], self.store_now())

    def store_now(self) -> int:
        return int(self.ask("SELECT slimq.now_ms()")[0][0])

    def ask(self, statement: str, *values: object) -> list[tuple[int, ...]]:
        return self._server.execute(statement, *values, database=DATABASE)

    def done(self) -> dict[str, tuple[int, int]]:
        """Return status and crashes of each line that is done; each is there once."""
        query = "SELECT convert_from(data, 'UTF8'), status, crashes FROM slimq.done"
        rows = self._server.execute(query, database=DATABASE)
        done = {line: (status, crashes) for line, status, crashes in rows}
        assert len(done) == len(rows), "a line was ingested twice"
        return done

    def acknowledged(self) -> set[str]:
        return {line for adder in self._adders for line in adder.acknowledged}

    def unknown(self) -> set[str]:
        return {line for adder in self._adders for line in adder.unknown}

    def end_adding(self) -> None:
        for adder in self._adders:
            adder.close()

    def close(self) -> None:
        self._made.close()


def harm(fleet: Fleet, kills: int, chance: random.Random) -> None:
    """Kill nodes at moments of no step in particular. Half of them come back at once, the
    machines of the others are gone, and new ones take their places."""
    victims = [fleet.node() for _ in range(VICTIMS)]
    pause = threading.Event()
    for _ in range(kills):
        pause.wait(chance.uniform(0, 0.8))
        place = chance.randrange(VICTIMS)
        node = victims[place]
        fleet.kill(node)
        if chance.random() < 0.5:
            fleet.restart(node)
        else:
            fleet.graves.append(node)
            victims[place] = fleet.node()


def bring_in(fleet: Fleet) -> None:
    """Start those once more that were killed for good: what they accepted is in their journals."""
    for node in fleet.graves:
        fleet.restart(node)
        wait_until(node.is_all_in, "its journal is in the store")
        assert node.quit() == 0


@pytest.mark.proof("P9")
@pytest.mark.timeout(300)
def test_no_job_is_held_by_a_dead_node_for_longer_than_a_lease_and_a_sweep_and_none_is_lost(
    make_postgres: Callable[..., Server], tmp_path: Path, proof: Proof
) -> None:
    chance = random.Random(proof.seed)
    kills = proof.size(submission=10, release=250)
    with ExitStack() as made:
        server = make_postgres()
        fleet = Fleet(server, tmp_path)
        made.callback(fleet.close)
        keeper, *_ = [fleet.node() for _ in range(KEEPERS)]
        keeper.put("work", lang="exec", body=COMMAND, options={"batch_size": 20})
        watch = Watch(server)
        watch.start()
        made.callback(watch.close)
        harm(fleet, kills, chance)
        wait_until(
            lambda: not watch.now & fleet.died.keys(),
            "no lease is held by the dead",
            timeout_s=SETTLED_S,
        )
        fleet.end_adding()
        bring_in(fleet)
        acknowledged = fleet.acknowledged()
        wait_until(
            lambda: fleet.ask("SELECT count(*) FROM slimq.job") == [(0,)] and keeper.is_all_in(),
            "all is done",
            timeout_s=SETTLED_S,
        )
        watch.close()
        done = fleet.done()
        gone = {sysid: watch.seen_at.get(sysid, 0) - at for sysid, at in fleet.died.items()}
        back = {sysid: watch.seen_at.get(sysid, 0) - at for sysid, at in fleet.back.items()}
        killed_again = [(status, crashes) for status, crashes in done.values() if status != 200]
        proof.report(
            kills=kills,
            jobs=len(done),
            held_by_the_dead=fleet.held,
            longest_held_ms=max(gone.values()),
            longest_held_after_restart_ms=max(0, *back.values(), 0),
            killed_three_times=len(killed_again),
            lost=len(acknowledged - done.keys()),
        )
        assert acknowledged - done.keys() == set(), "jobs are lost"
        assert done.keys() <= acknowledged | fleet.unknown()
        assert {crashes for _, crashes in killed_again} <= {CRASHES_MAX}
        assert fleet.held > kills, "hardly a kill hit a running job"
        assert max(gone.values()) <= LEASE_MS + SWEEP_MS + BUSY_MS
        assert max(0, *back.values(), 0) <= BACK_MS
