"""taskforcesh/bullmq#3056, #3183 and OptimalBits/bull#308, #2332: a handler that kept the event
loop busy kept the lock of its job from being renewed. It was "stalled" and ran a second time.

slimq: handlers are processes and URLs, and leases are renewed by the engine's thread: a run keeps
its lease however long it lasts, whatever it does, also when it is stopped.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from engine_kit import MakeRig, handler
from node_kit import Node, wait_until
from sqlite_kit import raw

from slimq.core.limits import LEASE_MS


def test_a_run_of_ten_leases_keeps_its_job_although_another_node_looks_for_abandoned_ones(
    make_rig: MakeRig,
) -> None:
    rig = make_rig("one", sysid="worker01")
    other = make_rig("two", sysid="worker02", store=rig.memory, clock=rig.clock)
    rig.memory.put_handler(handler())
    (id_,) = rig.add(b"x")
    rig.step()
    (flight,) = rig.air
    for _ in range(10 * LEASE_MS // 1000):
        rig.clock.advance(1000)
        rig.step()
        other.step()
        assert other.air == []
        assert flight not in rig.killed
        assert flight.deadline_ms > rig.clock.boot_ms()
    rig.land(flight, 200)
    rig.step()
    assert (rig.job(id_).status, rig.job(id_).attempt) == (200, 1)


def test_commands_that_burn_processors_or_are_stopped_hold_up_no_renewal(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        pids, gate = tmp_path / "pids", tmp_path / "gate"
        script = f"echo $$ >>{pids}; until [ -e {gate} ]; do :; done; echo 200"
        node.put("burn", lang="exec", body=["sh", "-c", script], options={"batch_size": 1})
        ids = node.add("burn", [b"x"] * 2)
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "both run")
        stopped = int(pids.read_text().split()[0])
        os.kill(stopped, signal.SIGSTOP)
        before = leases_end(node)
        wait_until(lambda: min(leases_end(node)) > max(before), "both leases are renewed")
        os.kill(stopped, signal.SIGCONT)
        gate.touch()
        assert [node.done(id_)["attempt"] for id_ in ids] == [1, 1]


def leases_end(node: Node) -> list[int]:
    """Return until when the leases of all jobs last, ms."""
    with raw(node.store) as db:
        return [dt for (dt,) in db.execute("SELECT dt FROM job")]
