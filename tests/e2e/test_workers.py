"""Several nodes behind one port: `slimq serve --workers N`, with real processes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from load_kit import Load
from node_kit import ECHO, Node, wait_until

WORKERS = 3
BACK_S = 5.0  # far below a lease; measured: 0.2 s
_HOLD_LOCK = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
db.execute("ROLLBACK")
db.close()
"""


def serve(folder: Path, workers: int = WORKERS, **settings: str) -> Node:
    return Node(folder, SLIMQ_SERVER__WORKERS=str(workers), **settings)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with serve(tmp_path) as node:
        wait_until(lambda: len(statuses(node)) == WORKERS, "all workers serve")
        yield node


def events(node: Node, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in list(node.log) if f'"event":"{event}"' in line]
    return [each for each in found if each["event"] == event]


def pids(node: Node) -> dict[int, int]:
    """Return the process of each worker, as it was started last."""
    return {each["worker"]: each["process"] for each in events(node, "worker.started")}


def statuses(node: Node) -> dict[str, Any]:
    """Return what the workers say of themselves, by sysid. Each question has a connection
    of its own, so that forty of them meet all workers but once in 3 million times."""
    answers = (node.call("GET", "/status") for _ in range(40))
    return {answer["sysid"]: answer for answer in answers}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def starts_of(node: Node, worker: int) -> int:
    return sum(each["worker"] == worker for each in events(node, "node.started"))


def is_all_in(node: Node) -> bool:
    answers = statuses(node).values()
    pending = [answer["node"]["journal"]["pending_bytes"] for answer in answers]
    return len(pending) == WORKERS and not any(pending)


def check_total(node: Node, load: Load) -> None:
    """Assert that each request that was acknowledged is there, whole and once, and of the
    others none in part. One with a key may have been accepted by two workers: it is one."""
    acked = load.acked()
    assert load.count() == len(acked), "an id was given twice"
    listed = [job["id"] for job in node.jobs(jobtype="work", outcome="ok")]
    assert len(listed) == len(set(listed)), "a job is listed twice"
    assert list(node.jobs(jobtype="work", outcome="error")) == []
    replays = set(acked) - set(listed)
    assert all(node.job(id_)["data"].encode() == acked[id_] for id_ in replays)
    assert {node.job(id_)["id"] for id_ in replays} <= set(listed)
    parts: dict[tuple[str, int], list[int]] = defaultdict(list)
    for id_ in listed:
        line = acked[id_].decode() if id_ in acked else node.job(id_)["data"]
        request, count, index = line.split()
        parts[request, int(count)].append(int(index))
    for (request, count), indexes in parts.items():
        assert sorted(indexes) == list(range(count)), f"{request} is there in part, or twice"


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Let another process hold the store, so that nothing is brought in meanwhile."""
    words = [sys.executable, "-c", _HOLD_LOCK, str(store)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


def test_connections_are_spread_over_the_workers_and_no_id_is_given_twice(node: Node) -> None:
    ids = [id_ for _ in range(120) for id_ in node.add("later", [b"a", b"b"])]
    assert len(set(ids)) == 240
    spread = Counter(id_[8:16] for id_ in ids)
    assert set(spread) == set(statuses(node))
    assert min(spread.values()) >= 20, spread  # of 80; fewer come once in a million times


def test_all_workers_serve_the_same_jobs_and_each_runs_some(node: Node) -> None:
    node.put("echo", lang="exec", body=ECHO, options={"batch_size": 1})
    ids = [id_ for number in range(60) for id_ in node.add("echo", [b"%d" % number])]
    jobs = [node.done(id_) for id_ in ids]
    assert [job["result"] for job in jobs] == [str(number) for number in range(60)]
    assert {run["node"] for job in jobs for run in job["runs"]} == set(statuses(node))
    shown = {json.dumps(node.job(ids[0])) for _ in range(20)}
    assert len(shown) == 1


def test_all_workers_together_run_no_more_batches_than_the_concurrency_says(
    node: Node, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    script = f"echo + >> {log}; cat; sleep 0.02; echo - >> {log}"
    options = {"batch_size": 1, "concurrency": 2, "result": "exit"}
    node.put("few", lang="exec", body=["sh", "-c", script], options=options)
    ids = [id_ for number in range(60) for id_ in node.add("few", [b"%d" % number])]
    jobs = [node.done(id_) for id_ in ids]
    assert {job["status"] for job in jobs} == {200}
    steps = [1 if sign == "+" else -1 for sign in log.read_text().split()]
    assert len(steps) == 120
    assert max(accumulate(steps)) == 2


def test_a_job_is_known_at_any_worker_from_the_moment_it_is_accepted(node: Node) -> None:
    for number in range(12):
        (id_,) = node.add("later", [b"%d" % number])
        assert node.job(id_)["id"] == id_


def test_all_workers_sign_with_one_secret_and_say_who_they_are(node: Node) -> None:
    assert (node.data / "webhook.secret").read_text().startswith("whsec_")
    assert not list(node.data.glob("nodes/*/webhook.secret"))
    wait_until(lambda: len(node.call("GET", "/nodes")["nodes"]) == WORKERS, "all are registered")
    listed = {each["worker"]: each for each in node.call("GET", "/nodes")["nodes"]}
    assert {number: each["pid"] for number, each in listed.items()} == pids(node)
    assert {each["url"] for each in listed.values()} == {node.url}
    assert listed[1]["data"] == str(node.data)
    assert listed[2]["data"] == str(node.data / "nodes" / "2")


@pytest.mark.timeout(180)
def test_workers_that_are_killed_under_load_lose_nothing_and_are_back_at_once(
    node: Node,
    chance: random.Random,
) -> None:
    load = Load(node, chance)
    # Each in turn: one that dies again and again is started later and later.
    for worker in chance.sample(range(1, WORKERS + 1), WORKERS) * 3:
        before = load.count()
        wait_until(lambda count=before: load.count() > count + 50, "jobs are accepted")
        starts = starts_of(node, worker)
        os.kill(pids(node)[worker], signal.SIGKILL)
        wait_until(
            lambda worker=worker, starts=starts: starts_of(node, worker) > starts,
            f"worker {worker} is back",
            timeout_s=BACK_S,
        )
    load.end()
    # Not before: a job that three kills met would be done with an error.
    node.put("work", lang="exec", body=ECHO)
    wait_until(lambda: is_all_in(node) and node.count("work") == 0, "all has run", timeout_s=60)
    check_total(node, load)
    assert node.quit() == 0


def test_jobs_that_ran_on_a_killed_worker_run_again_at_once(node: Node) -> None:
    marker = node.folder / "marker"
    script = f"if [ -e {marker} ]; then sed 's/^/200 /'; else touch {marker}; sleep 60; fi"
    node.put("hang", lang="exec", body=["sh", "-c", script])
    (id_,) = node.add("hang", [b"x"])
    wait_until(marker.exists, "the job runs")
    wait_until(lambda: node.job(id_)["state"] == "running", "it is seen to run")
    runner = statuses(node)[node.job(id_)["node"]]["node"]["worker"]
    os.kill(pids(node)[runner], signal.SIGKILL)
    wait_until(lambda: node.job(id_)["state"] == "done", "it ran again", timeout_s=BACK_S)
    job = node.job(id_)
    assert (job["status"], job["attempt"], job["crashes"]) == (200, 2, 1)


@pytest.mark.parametrize("how", ["quit", "SIGTERM", "SIGINT"])
def test_the_end_of_one_is_the_end_of_all_with_0(node: Node, how: str) -> None:
    if how == "quit":
        assert node.call("POST", "/quit")["state"] == "quitting"
    else:
        node.process.send_signal(getattr(signal, how))
    assert node.ended() == 0
    assert not any(map(is_alive, pids(node).values()))
    assert sorted(each["worker"] for each in events(node, "node.ended")) == [1, 2, 3]


def test_workers_let_what_runs_end_and_keep_what_they_accepted(node: Node) -> None:
    node.put("slow", lang="exec", body=["sh", "-c", "sleep 1; sed 's/^/200 /'"])
    ids = [id_ for _ in range(6) for id_ in node.add("slow", [b"x"])]
    wait_until(lambda: node.call("GET", "/types/slow")["running"] > 0, "some run")
    assert node.quit() == 0
    node.start()
    wait_until(lambda: [node.done(id_)["status"] for id_ in ids] == [200] * 6, "all are done")
    assert max(node.job(id_)["crashes"] for id_ in ids) == 0


def test_stop_and_start_act_on_all_workers_also_over_a_restart(node: Node) -> None:
    def states() -> set[str]:
        return {answer["state"] for answer in statuses(node).values()}

    node.put("echo", lang="exec", body=ECHO)
    assert node.call("POST", "/stop")["state"] == "stopped"
    wait_until(lambda: states() == {"stopped"}, "all are stopped", timeout_s=5)
    ids = [id_ for _ in range(12) for id_ in node.add("echo", [b"x"])]
    assert node.quit() == 0
    node.start()
    wait_until(lambda: len(statuses(node)) == WORKERS, "all workers serve")
    assert states() == {"stopped"}
    assert {node.job(id_)["attempt"] for id_ in ids} == {0}
    assert node.call("POST", "/start")["state"] == "running"
    wait_until(lambda: states() == {"running"}, "all run", timeout_s=5)
    assert {node.done(id_)["status"] for id_ in ids} == {200}


def test_workers_are_gone_when_their_supervisor_was_killed_and_it_starts_again(
    node: Node,
) -> None:
    (id_,) = node.add("echo", [b"x"])
    workers = list(pids(node).values())
    assert all(map(is_alive, workers))
    node.kill()
    wait_until(lambda: not any(map(is_alive, workers)), "no worker is left", timeout_s=5)
    node.start()
    node.put("echo", lang="exec", body=ECHO)
    assert node.done(id_)["result"] == "x"


def test_a_worker_that_hangs_at_the_end_is_killed_and_the_code_says_so(tmp_path: Path) -> None:
    with serve(tmp_path, SLIMQ_SERVER__DRAIN="0s") as node:
        wait_until(lambda: len(statuses(node)) == WORKERS, "all workers serve")
        hanging = pids(node)[2]
        os.kill(hanging, signal.SIGSTOP)
        assert node.quit() == 1
        assert not is_alive(hanging)
        assert [each["workers"] for each in events(node, "workers.killed")] == [[2]]


def test_journals_of_workers_that_are_no_more_are_brought_in_and_then_forgotten(
    tmp_path: Path,
) -> None:
    """Also by a node that is alone."""
    settings = {"SLIMQ_JOURNAL__RETAIN": "0s"}
    with serve(tmp_path, **settings) as node:
        wait_until(lambda: len(statuses(node)) == WORKERS, "all workers serve")
        with locked(node.store):
            ids = [id_ for number in range(40) for id_ in node.add("echo", [b"%d" % number])]
            assert len({id_[8:16] for id_ in ids}) == WORKERS
            node.kill()
        assert len(list(node.data.glob("nodes/*/journal/*.journal"))) == WORKERS - 1
    with serve(tmp_path, 1, **settings) as node:
        node.put("echo", lang="exec", body=ECHO)
        assert [node.done(id_)["result"] for id_ in ids] == [str(number) for number in range(40)]
        wait_until(lambda: len(events(node, "journal.brought_in")) == 2, "both are brought in")
        assert list(node.data.glob("nodes/*/journal/*.journal")) == []
        assert {id_[8:16] for id_ in node.add("echo", [b"x"])} == set(statuses(node))
        assert node.quit() == 0
        node.start()
        assert events(node, "worker.started") == []
        assert node.quit() == 0
    with serve(tmp_path, **settings) as node:  # the folders are used again
        wait_until(lambda: len(statuses(node)) == WORKERS, "all workers serve")
        ids = [id_ for _ in range(20) for id_ in node.add("echo", [b"again"])]
        assert {node.done(id_)["result"] for id_ in ids} == {"again"}
        assert node.quit() == 0


def test_a_second_one_is_refused_at_the_same_port_and_in_the_same_folder(
    node: Node, tmp_path: Path
) -> None:
    def second(*flags: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "slimq", "serve", "--workers", "2", *flags]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=30)

    port = node.url.rpartition(":")[2]
    same_port = second("--port", port, "--data", str(tmp_path / "other"))
    assert (same_port.returncode, same_port.stdout) == (5, "")
    assert f"slimq: port {port} on 127.0.0.1 is taken by another process" in same_port.stderr
    same_folder = second("--port", "0", "--data", str(node.data))
    assert (same_folder.returncode, same_folder.stdout) == (3, "")
    holders = set(pids(node).values())  # whichever of its workers came first to its folder
    held = re.search(r"is held by another slimq, process (\d+)", same_folder.stderr)
    assert held, same_folder.stderr
    assert int(held[1]) in holders
    assert node.problems() == ""
    assert node.quit() == 0


def test_the_banner_is_shown_once(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "slimq", "serve", "--workers", "3", "--port", "0"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        banner = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert (banner + out).count("is ready") == 1
    assert process.returncode == 0
