"""Three machines and a PostgreSQL: cut cables, kills, pauses, clocks that are off by an hour.

Nothing that was acknowledged is lost, and every job that ran twice was at a node, or in the
store, when a fault hit it. In a release run faults may last for longer than a lease.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from adder_kit import Adder
from namespace_kit import FarNode, Machine, need_namespaces, skew_library
from node_kit import wait_until

from postgres_kit import Server
from proof_kit import Proof, is_release
from slimq.core.jobid import parse_id
from slimq.core.limits import LEASE_MS

COMMAND = ["sh", "-c", "sleep 0.02; tee -a runs | sed 's/^/200 /'"]
FAULT_S = 2.5  # the shortest
FAULT_MAX_S = LEASE_MS / 1000 + 10 if is_release() else FAULT_S
CALM_S = 2.0
PAUSE_S = 0.03  # between two requests to one node
SETTLED_S = 150  # a claim whose answer a fault swallowed is taken back after a lease
STORE = "store"
HOUR_MS = 3_600_000
WHILE = LEASE_MS + 30_000  # a lease that nobody holds ends, and is found by a sweep
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = 'jobs' AND pid <> pg_backend_pid()
"""


class Fault(NamedTuple):
    """What was hit (sysids, or STORE), from and until when, by the clock of the store."""

    hit: frozenset[str]
    since: int
    until: int


class Done(NamedTuple):
    """What became of a job. `before` are the nodes of its runs but the last."""

    data: str
    status: int
    attempt: int
    started_at: int
    ended_at: int
    before: list[str]


class Yard:
    """Three nodes on machines of their own, and the PostgreSQL on this one."""

    def __init__(self, server: Server, machines: list[Machine], nodes: list[FarNode]) -> None:
        self.server, self.machines, self.nodes = server, machines, nodes
        self.faults: list[Fault] = []

    def now(self) -> int:
        return int(self.server.execute("SELECT slimq.now_ms()", database="jobs")[0][0])

    def clock_of(self, node: FarNode) -> int:
        """Return the time that a node believes it is: ids tell it."""
        (id_,) = node.add("work", [f"clock-{node.folder.name}".encode()])
        return parse_id(id_).time_ms

    def sysid(self, node: FarNode) -> str:
        return str(node.call("GET", "/status")["node"]["sysid"])

    def fault(self, hit: set[str], harm: Callable[[], object], since: int) -> None:
        harm()
        self.faults.append(Fault(frozenset(hit), since, self.now()))

    def done(self) -> list[Done]:
        """Return all jobs that are done."""
        query = """
        SELECT convert_from(data, 'UTF8'), status, attempt, started_at, ended_at,
          ARRAY(SELECT node FROM slimq.run WHERE run.seq = done.seq
                AND run.attempt < done.attempt ORDER BY attempt)
        FROM slimq.done
        """
        return [Done(*row) for row in self.server.execute(query, database="jobs")]

    def ran(self) -> Counter[str]:
        """Return how often each line was in the hands of a command, by their own word."""
        return Counter(
            line for node in self.nodes for line in (node.folder / "runs").read_text().split()
        )


@pytest.fixture
def yard(make_postgres: Callable[..., Server], tmp_path: Path) -> Iterator[Yard]:
    need_namespaces()
    with ExitStack() as made:
        machines = [made.enter_context(closing(Machine(number))) for number in range(3)]
        addresses = ",".join(["127.0.0.1", *(machine.gateway for machine in machines)])
        server = make_postgres(settings={"listen_addresses": addresses})
        with (server.data / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.0.0.0/8 trust\n")
        server.configure(log_connections="off")
        url = server.create_database("jobs")
        skews = ["", "+1h", "-1h"] if skew_library() else [""] * 3
        nodes = []
        for machine, skew in zip(machines, skews, strict=True):
            folder = tmp_path / machine.name
            folder.mkdir()
            near = url.replace("127.0.0.1", machine.gateway)
            node = FarNode(machine, folder, skew=skew, SLIMQ_STORE__URL=near)
            nodes.append(made.enter_context(node))
        nodes[0].put("work", lang="exec", body=COMMAND, options={"batch_size": 5})
        yield Yard(server, machines, nodes)


@pytest.mark.proof("T9")
@pytest.mark.timeout(240)
def test_nothing_is_lost_and_every_second_run_has_its_fault(yard: Yard, proof: Proof) -> None:
    first, second, third = yard.nodes
    off = [round((yard.clock_of(node) - yard.now()) / HOUR_MS) for node in yard.nodes]
    assert off == ([0, 1, -1] if skew_library() else [0, 0, 0])
    pause, chance = threading.Event(), Random(proof.seed)
    adders = [Adder(node, f"n{number}", pause_s=PAUSE_S) for number, node in enumerate(yard.nodes)]
    with ExitStack() as stack:
        for adder in adders:
            stack.callback(adder.close)
        pause.wait(CALM_S)
        calm_until = yard.now()

        def how_long() -> float:
            return chance.uniform(FAULT_S, FAULT_MAX_S)

        def cut_off() -> None:
            before = len(adders[0].acknowledged)
            yard.machines[0].cut()
            pause.wait(how_long())
            assert len(adders[0].acknowledged) > before + 10, "it accepts alone"
            yard.machines[0].mend()

        def kill() -> None:
            second.kill()
            pause.wait(how_long() - FAULT_S)
            second.start()

        def freeze() -> None:
            third.process.send_signal(signal.SIGSTOP)
            pause.wait(how_long())
            third.process.send_signal(signal.SIGCONT)

        def crash() -> None:
            yard.server.kill()
            pause.wait(1)
            yard.server.start()

        harms = [
            (first, cut_off),
            (second, kill),
            (third, freeze),
            (None, lambda: yard.server.execute(CUT)),
            (None, crash),
        ]
        for _ in range(proof.size(submission=1, release=15)):
            chance.shuffle(harms)
            for node, harm in harms:
                yard.fault({yard.sysid(node) if node else STORE}, harm, yard.now())
        pause.wait(1)
    acknowledged = set().union(*(adder.acknowledged for adder in adders))
    unknown = set().union(*(adder.unknown for adder in adders))
    acknowledged |= {f"clock-{node.folder.name}" for node in yard.nodes}
    assert len(acknowledged) > 300
    wait_until(
        lambda: all(node.is_all_in() for node in yard.nodes) and not _live(yard),
        "all is done",
        timeout_s=SETTLED_S,
    )
    done = yard.done()
    lines = [job.data for job in done]
    assert acknowledged <= set(lines), "acknowledged lines are lost"
    assert len(lines) == len(set(lines)), "a line was ingested twice"
    assert set(lines) <= acknowledged | unknown
    assert {job.status for job in done} == {200}
    ran = yard.ran()
    assert set(ran) == set(lines)
    again = [job for job in done if job.attempt > 1 or ran[job.data] > 1]
    unexplained = [job for job in again if not _explained(job, yard.faults)]
    assert unexplained == []
    assert all(job.ended_at > calm_until for job in again), "without a fault nothing runs twice"
    proof.report(
        jobs=len(lines),
        faults=len(yard.faults),
        run_twice=len(again),
        unanswered=len(unknown),
        lost=0,
    )


def _live(yard: Yard) -> int:
    return int(yard.server.execute("SELECT count(*) FROM slimq.job", database="jobs")[0][0])


def _explained(job: Done, faults: list[Fault]) -> bool:
    """Whether a run of the job that was not the last was at a node that a fault hit; or the
    store was hit while the job was there: a lease, or the end of a run, was lost."""
    by_node = any(node in fault.hit for fault in faults for node in job.before)
    by_store = any(
        STORE in fault.hit and fault.since <= job.ended_at and job.ended_at <= fault.until + WHILE
        for fault in faults
    )
    return by_node or by_store
