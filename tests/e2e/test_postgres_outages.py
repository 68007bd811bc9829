"""A PostgreSQL in trouble: accepting goes on, the node says what is wrong, and goes on by
itself when the server does. Nothing is lost, and what runs again has a fault to blame.

The seed of each test is printed with a failure; `SLIMQ_TEST_SEED` sets it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from node_kit import wait_until
from outage_kit import (
    BACK_S,
    CPU_MAX,
    CPU_S,
    PASSWORD,
    MakeServer,
    Work,
    cpu_of,
    cut_connections,
    left_of,
    memory_of,
    node_at,
    refuses_questions,
    says,
)

from postgres_kit import Server, either

# Outages.


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_server_that_goes_away_and_comes_back_loses_nothing(
    server: Server, tmp_path: Path, end: str
) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        running = work.add(3)
        wait_until(lambda: len(work.runs()) == 3, "the jobs run")
        if end == "stopped":
            server.stop()
        else:
            server.kill()
        says(node, "Connection refused")
        pending = work.add(30)
        assert node.post("work", [b"x"], "&delay=1h", key="order-7", timeout=4).status == 202
        assert {node.job(id_)["state"] for id_ in pending} == {"accepted"}
        assert node.ask("GET", f"/jobs/{running[0]}").status == 503
        refuses_questions(node, within_s=4)
        work.open()  # what runs ends meanwhile, and is told later
        if end == "stopped":
            assert cpu_of(node, CPU_S) < CPU_MAX
            before = memory_of(node)
            for _ in range(200):
                work.add(3)
            assert memory_of(node) - before < 50 << 20
        server.start()
        wait_until(lambda: not node.problems(), "the node goes on", timeout_s=BACK_S)
        wait_until(lambda: left_of(node) == 1, "only the deferred one waits", timeout_s=BACK_S)
        ids = work.lines.keys()
        assert {node.job(id_)["outcome"] for id_ in ids} == {"ok"}
        if end == "stopped":  # a crash may take back a lease: then the job waits again
            assert [node.job(id_)["attempt"] for id_ in running] == [1, 1, 1]
            assert set(work.runs().values()) == {1}
        words = [line for line in node.log if '"event":"store.' in line and "warning" not in line]
        assert [word.split('"event":"')[1].split('"')[0] for word in words] == [
            "store.unavailable",
            "store.available",
        ]
        assert node.quit() == 0


def test_a_server_that_freezes_for_a_moment_costs_nothing(server: Server, tmp_path: Path) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        work.add(3)
        wait_until(work.is_done, "the jobs are done")
        server.pause()
        try:
            ids = work.add(3)
            assert {node.job(id_)["state"] for id_ in ids} == {"accepted"}
        finally:
            server.resume()
        work.end()
        assert set(work.runs().values()) == {1}


def test_a_run_whose_record_has_to_wait_keeps_no_other_job_from_running(
    server: Server, tmp_path: Path
) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        (waits,) = work.add()
        wait_until(lambda: len(work.runs()) == 1, "the job runs")
        with psycopg.connect(server.url()) as holder:
            holder.execute("SELECT FROM slimq.job WHERE id = %s FOR UPDATE", (waits,))
            work.open()
            blocked = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
            wait_until(lambda: server.execute(blocked) == [(True,)], "its record waits")
            (other,) = work.add()
            wait_until(lambda: len(work.runs()) == 2, "the other job runs")
            assert {node.job(id_)["state"] for id_ in (waits, other)} == {"running"}
        work.end()
        assert set(work.runs().values()) == {1}


def test_connections_that_are_cut_at_random_moments_cost_no_job_and_no_second_run(
    server: Server, tmp_path: Path, chance: random.Random
) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        pause = threading.Event()
        for _ in range(25):
            work.add(chance.choice((1, 2, 20)))
            pause.wait(chance.random() * 0.1)  # a moment of no step in particular
            cut_connections(server)
        work.end()
        assert set(work.runs().values()) == {1}


def test_a_server_that_crashes_at_random_moments_loses_nothing(
    server: Server, tmp_path: Path, chance: random.Random
) -> None:
    with node_at(tmp_path, server.url()) as node:
        work = Work(node)
        work.open()
        pause = threading.Event()
        for _ in range(4):
            work.add(chance.choice((1, 20, 200)))
            pause.wait(chance.random() * 0.3)
            server.kill()
            work.add(chance.choice((1, 20)))
            server.start()
        work.end()


def test_connections_that_are_used_up_are_waited_for(
    make_postgres: MakeServer, tmp_path: Path
) -> None:
    server = make_postgres(settings={"max_connections": "7", "superuser_reserved_connections": "0"})
    held: list[psycopg.Connection] = []
    try:
        while takes(server, held):
            pass
        with node_at(tmp_path, server.url()) as node:
            says(node, "too many clients")
            ids = node.add("work", [b"line-0", b"line-1"])
            assert {node.job(id_)["state"] for id_ in ids} == {"accepted"}
            for connection in held:
                connection.close()
            wait_until(lambda: not node.problems(), "the node goes on", timeout_s=BACK_S)
            work = Work(node)
            work.open()
            work.lines = dict(zip(ids, ("line-0", "line-1"), strict=True))
            work.end()
    finally:
        for connection in held:
            connection.close()


def takes(server: Server, held: list[psycopg.Connection]) -> bool:
    try:
        held.append(psycopg.connect(server.url()))
    except psycopg.OperationalError:
        return False
    return True


# Failover.


def test_a_replica_that_lagged_is_healed_from_the_journal(server: Server, tmp_path: Path) -> None:
    with server.replica() as replica, node_at(tmp_path, either(server, replica)) as node:
        work = Work(node)
        work.open()
        work.add(20)
        wait_until(work.is_done, "the first jobs are done")
        replica.catch_up()
        replica.disconnect()
        work.add(100)
        wait_until(work.is_done, "so are those that the replica does not know")
        server.kill()
        work.add(10)
        replica.promote()
        work.end(timeout_s=2 * BACK_S)
        runs = work.runs()
        late = {line for id_, line in work.lines.items()} - {f"line-{n}" for n in range(20)}
        assert {runs[f"line-{n}"] for n in range(20)} == {1}
        assert {runs[line] for line in late} <= {1, 2}  # their end was lost with the primary


def test_a_primary_that_froze_is_left_for_the_replica_that_was_promoted(
    server: Server, tmp_path: Path
) -> None:
    with server.replica() as replica, node_at(tmp_path, either(server, replica)) as node:
        work = Work(node)
        work.open()
        work.add(5)
        wait_until(work.is_done, "the first jobs are done")
        replica.catch_up()
        server.pause()
        began = time.monotonic()
        assert node.ask("GET", "/jobs").status == 503
        assert time.monotonic() - began < 9
        ids = work.add(5)
        keyed = node.post("work", [b"keyed"], key="order-8", timeout=4)
        assert keyed.status == 202
        work.lines[keyed.document["ids"][0]] = "keyed"
        assert {node.job(id_)["state"] for id_ in ids} == {"accepted"}
        replica.promote()
        work.end(timeout_s=25)


# Bad input.


def refused_start(folder: Path, url: str, **environment: str) -> tuple[int, str]:
    """Start a node that must refuse to start; return its exit code and its one line."""
    ended = subprocess.run(
        [sys.executable, "-m", "slimq", "serve", "--port", "0"],
        cwd=folder,
        env=os.environ | {"SLIMQ_STORE__URL": url} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.stdout == ""
    assert re.fullmatch(r"slimq: .+\n", ended.stderr), ended.stderr
    assert PASSWORD not in ended.stderr
    return ended.returncode, ended.stderr


def test_what_waiting_does_not_heal_ends_the_start_with_one_line(
    postgres: Server, tmp_path: Path
) -> None:
    code, line = refused_start(tmp_path, postgres.url("nowhere").replace("@", f":{PASSWORD}@"))
    assert code == 8
    assert 'database "nowhere" does not exist' in line
    code, line = refused_start(tmp_path, f"postgresql://me:{PASSWORD}@db:port/jobs")
    assert code == 2
    assert "store.url" in line


def test_a_driver_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code, line = refused_start(tmp_path, f"postgresql://me:{PASSWORD}@db/jobs", PYTHONPATH=paths)
    assert code == 2
    assert "pip install 'slimq[postgres]'" in line


def test_a_password_that_is_changed_under_way_stops_no_accepting(
    make_postgres: MakeServer, tmp_path: Path
) -> None:
    server = make_postgres(auth="scram-sha-256")
    server.create_user("worker", PASSWORD)
    server.execute("CREATE DATABASE jobs OWNER worker")
    with node_at(tmp_path, server.url("jobs", "worker", PASSWORD)) as node:
        work = Work(node)
        work.open()
        server.execute("ALTER ROLE worker PASSWORD 'other'")
        server.terminate_backends("jobs")
        says(node, "password authentication failed")
        work.add(2)
        server.execute(f"ALTER ROLE worker PASSWORD '{PASSWORD}'")
        work.end()
