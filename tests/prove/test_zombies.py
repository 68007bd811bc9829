"""A node that is stopped for longer than its leases, and then goes on: its jobs were taken over
in time, and whatever it says of them changes nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_kit import Node, commands_of, wait_until
from sqlite_kit import raw

from postgres_kit import Server
from proof_kit import Proof
from slimq.core.limits import LEASE_MS, SWEEP_MS

ZOMBIES = 2  # of each fleet
SLOTS = 4
JOBS = 6  # all slots that one client gets of two nodes
LANDED_S = 0.3  # until a node knows that a run has ended
BUSY_S = 5  # for a machine that does other things, too
TAKEN_OVER_S = (LEASE_MS + SWEEP_MS) / 1000 + BUSY_S
DATABASE = "jobs"
CUT_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
"""
Hold = Callable[[], AbstractContextManager[None]]  # while it holds, no run can be recorded


class Fleet:
    """Nodes on one store. The first run of a job waits for a gate of its own and then says
    `late`; a further run says `again` at once."""

    def __init__(self, folder: Path, made: ExitStack, hold: Hold, **store: str) -> None:
        self.folder = folder
        self._hold = hold
        folder.mkdir()
        names = ["keeper", *(f"zombie{number}" for number in range(ZOMBIES))]
        for name in names:
            (folder / name).mkdir()
        self.keeper, *self.zombies = (
            made.enter_context(Node(folder / name, SLIMQ_RUN__EXEC_SLOTS=str(SLOTS), **store))
            for name in names
        )
        script = (
            f'read -r line; if [ "$SLIMQ_ATTEMPT" != 1 ]; then echo 200 again; exit; fi;'
            f" until [ -e {folder}/$line ]; do sleep 0.05; done; echo 400 late"
        )
        options = {"batch_size": 1, "result": "lines", "timeout": "10m"}
        self.keeper.put("work", lang="exec", body=["sh", "-c", script], options=options)

    def haunt(self, turn: int) -> None:
        """Let the zombies take jobs, and stop them."""
        self.keeper.call("POST", "/stop")
        lines = [f"{turn}-{number}" for number in range(JOBS)]
        self.lines = dict(
            zip(self.keeper.add("work", [line.encode() for line in lines]), lines, strict=True)
        )
        wait_until(lambda: self.count("running") == JOBS, "zombies run all jobs")
        self.held_by = {id_: self.keeper.job(id_)["node"] for id_ in self.lines}
        with self._hold_ends(list(self.lines.values())[: JOBS // 3]):
            for zombie in self.zombies:
                zombie.process.send_signal(signal.SIGSTOP)
                wait_until(lambda: is_stopped(zombie), "each of its threads stands still")  # noqa: B023
        self.stopped_at = time.monotonic()
        self.keeper.call("POST", "/start")

    @contextmanager
    def _hold_ends(self, lines: list[str]) -> Iterator[None]:
        """Let some runs end that cannot be recorded meanwhile: a zombie still will try."""
        with self._hold():
            for line in lines:
                (self.folder / line).touch()
            wait_until(lambda: self._commands() == JOBS - len(lines), "some runs end")
            threading.Event().wait(LANDED_S)
            yield

    def _commands(self) -> int:
        """Return how many runs there are: shells, but for what they sleep by."""
        names = (Path(f"/proc/{pid}/comm") for node in self.zombies for pid in commands_of(node))
        return sum(name.exists() and name.read_text() == "sh\n" for name in names)

    def stale(self) -> int:
        """Return how many late results the zombies tried to record."""
        return sum(
            int(zombie.call("GET", "/status")["node"]["counters"]["stale_completions"])
            for zombie in self.zombies
        )

    def count(self, state: str) -> int:
        count: int = self.keeper.call("GET", "/types/work?client=main")[state]
        return count

    def is_taken_over(self) -> bool:
        counts = self.keeper.call("GET", "/types/work?client=main")
        return bool(counts["waiting"] == counts["running"] == 0)

    def wake(self) -> None:
        """Let half of the late runs end, and the zombies go on."""
        self.before = {id_: self.keeper.job(id_) for id_ in self.lines}
        for line in list(self.lines.values())[::2]:
            (self.folder / line).touch()
        for zombie in self.zombies:
            zombie.process.send_signal(signal.SIGCONT)

    def check(self) -> None:
        """Assert that all late runs are over, that nothing came of them, and that those who
        were zombies work again."""
        for zombie in self.zombies:
            wait_until(lambda: not commands_of(zombie), "its late runs are over")  # noqa: B023
            wait_until(lambda: runs_nothing(zombie), "it knows that they are")  # noqa: B023
        sysid = self.keeper.call("GET", "/status")["sysid"]
        for id_, before in self.before.items():
            job = self.keeper.job(id_)
            assert job == before
            assert (job["status"], job["result"], job["attempt"]) == (200, "again", 2)
            assert job["crashes"] == 1
            assert [run["node"] for run in job["runs"]] == [self.held_by[id_], sysid]
        for zombie in self.zombies:
            (id_,) = zombie.add("echo", [b"alive"])
            assert zombie.done(id_)["status"] == 200
            assert not zombie.problems()


def hold_file(path: Path) -> Hold:
    """Nothing can be written to a file meanwhile."""

    @contextmanager
    def hold() -> Iterator[None]:
        with raw(path) as db:
            db.setbusytimeout(10_000)
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("ROLLBACK")

    return hold


def hold_server(server: Server) -> Hold:
    """No end of a run can be recorded meanwhile. A server would go on with what it was told,
    also by a node that stands still: who waits at the end of it is cut off."""

    @contextmanager
    def hold() -> Iterator[None]:
        with server.connect(DATABASE) as db, db.transaction():
            db.execute("LOCK TABLE slimq.done IN EXCLUSIVE MODE")
            yield
            db.execute(CUT_OFF)

    return hold


def is_stopped(node: Node) -> bool:
    tasks = Path(f"/proc/{node.process.pid}/task").iterdir()
    stats = [(task / "stat").read_text().rpartition(")")[2].split() for task in tasks]
    return all(stat[0] == "T" for stat in stats)


def runs_nothing(node: Node) -> bool:
    status: Any = node.call("GET", "/status")
    return bool(status["node"]["engine"]["running_batches"] == 0)


@pytest.mark.proof("T10")
@pytest.mark.timeout(240)
def test_jobs_of_a_zombie_are_taken_over_in_time_and_its_late_results_change_nothing(
    tmp_path: Path, make_postgres: Callable[..., Server], proof: Proof
) -> None:
    zombies = taken_over = 0
    longest = 0.0
    with ExitStack() as made:
        server = make_postgres()
        url, file = server.create_database(DATABASE), tmp_path / "shared.db"
        fleets = [
            Fleet(tmp_path / "sqlite", made, hold_file(file), SLIMQ_STORE__PATH=str(file)),
            Fleet(tmp_path / "postgres", made, hold_server(server), SLIMQ_STORE__URL=url),
        ]
        for fleet in fleets:
            fleet.keeper.put("echo", lang="exec", body=["sed", "s/^/200 /"])
        for turn in range(proof.size(submission=1, release=20)):
            for fleet in fleets:
                fleet.haunt(turn)
            for fleet in fleets:
                wait_until(fleet.is_taken_over, "all jobs are taken over", timeout_s=TAKEN_OVER_S)
                longest = max(longest, time.monotonic() - fleet.stopped_at)
            for fleet in fleets:
                fleet.wake()
            for fleet in fleets:
                fleet.check()
                zombies += ZOMBIES
                taken_over += JOBS
        stale = [fleet.stale() for fleet in fleets]
        assert all(stale), f"no zombie tried to record a late result: {stale}"
        for fleet in fleets:
            assert all(node.quit() == 0 for node in (fleet.keeper, *fleet.zombies))
    proof.report(
        zombies=zombies,
        taken_over=taken_over,
        longest_s=round(longest, 1),
        late=sum(stale),
        late_accepted=0,
    )
