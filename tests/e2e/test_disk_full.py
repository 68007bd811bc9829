"""A disk that is really full: a small file system, filled to its last block."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from node_kit import ECHO, Answer, Node, wait_until

from postgres_kit import outcome_without
from proof_kit import Proof
from slimq.core.limits import RESERVE_BYTES

DISK_BYTES = 4 * RESERVE_BYTES  # tmpfs keeps it in memory


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as path:
        yield path


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes; where none can be mounted the test is skipped,
    and fails where CI is set."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "slimq-test", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise outcome_without("no command to mount a small disk with", os.environ) from None
    if mounted.returncode != 0:
        said, _, _ = mounted.stderr.partition("\n")
        raise outcome_without(f"a small disk cannot be mounted here: {said}", os.environ)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)


def fill(disk: Path, *, keep: int = 0) -> None:
    """Fill a disk with a ballast file, until so many bytes are free."""
    with (disk / "ballast").open("ab") as ballast:
        while (free := free_bytes(disk) - keep) > 0:
            with suppress(OSError):  # somebody was faster: look again
                os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), free)


def empty(disk: Path) -> None:
    (disk / "ballast").unlink()


def free_bytes(disk: Path) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_frsize


def is_refused(answer: Answer) -> bool:
    """Return whether an answer is the documented refusal, and complete as such."""
    if answer.status != 507:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.document["type"] == "/problems/disk-full"
    assert answer.document["status"] == 507
    assert answer.headers["retry-after"] == "1"
    assert "slimq-durability" not in answer.headers
    return True


def accepts_again(node: Node, jobtype: str) -> list[str]:
    """Wait until a node whose disk has room again accepts; return the id."""
    ids: list[str] = []

    def accepted() -> bool:
        answer = node.post(jobtype, [b"again"])
        assert answer.status in (202, 507), answer
        ids.extend(answer.document.get("ids", []))
        return answer.status == 202

    wait_until(accepted, "it accepts again", timeout_s=5)
    return ids


def put_gated(node: Node, gate: Path, **options: object) -> None:
    """Put a handler whose runs wait for a gate, and then say 20,000 bytes for each job."""
    script = (
        f"until [ -e {gate} ]; do sleep 0.02; done;"
        " text=$(head -c 20000 /dev/zero | tr '\\0' x);"
        ' while read -r line; do echo "200 $line $text"; done'
    )
    node.put("gated", lang="exec", body=["sh", "-c", script], options=options)


def test_with_too_little_room_jobs_are_refused_run_and_accepted_again_without_a_restart(
    tmp_path: Path, disk: Path
) -> None:
    with Node(disk) as node:
        gate = tmp_path / "gate"
        put_gated(node, gate, batch_size=10)
        waiting = node.add("gated", [b"%d" % number for number in range(200)])
        fill(disk, keep=RESERVE_BYTES // 2)
        assert is_refused(node.post("gated", [b"too late"]))
        assert is_refused(node.ask("POST", "/jobs", b'{"jobtype":"gated","data":"too late"}'))
        assert "the disk is full" in node.problems()
        assert "the disk is full" in node.call("GET", "/status")["node"]["journal"]["error"]
        ready = node.ask("GET", "/readyz")
        assert ready.status == 503
        gate.touch()
        wait_until(lambda: node.has_run("gated"), "what waited has run")
        assert is_refused(node.post("gated", [b"still too late"]))
        empty(disk)
        again = accepts_again(node, "gated")
        wait_until(lambda: not node.problems(), "/healthz says ok")
        assert node.call("GET", "/readyz") == {"status": "ready"}
        wait_until(lambda: node.has_run("gated"), "all have run")
        assert {job["id"] for job in node.jobs(outcome="ok")} == {*waiting, *again}
        assert len(list(node.jobs())) == 201
        assert node.quit() == 0


def test_a_store_that_finds_the_disk_full_gets_the_reserve_and_finishes(
    tmp_path: Path, disk: Path
) -> None:
    with Node(disk) as node:
        gate = tmp_path / "gate"
        put_gated(node, gate, batch_size=10)
        waiting = node.add("gated", [b"%d" % number for number in range(200)])
        wait_until(node.is_all_in, "all are in the store")
        fill(disk)  # nobody adds: it is the store that finds out
        gate.touch()
        wait_until(lambda: node.has_run("gated"), "what waited has run", timeout_s=20)
        assert {job["id"] for job in node.jobs(outcome="ok")} == set(waiting)
        assert is_refused(node.post("gated", [b"too late"]))
        empty(disk)
        accepts_again(node, "gated")
        wait_until(lambda: not node.problems(), "/healthz says ok")
        assert node.quit() == 0


def test_when_the_reserve_is_used_up_too_what_ran_is_finished_once_there_is_room(
    tmp_path: Path, disk: Path
) -> None:
    with Node(disk) as node:
        gate, started = tmp_path / "gate", tmp_path / "started"
        script = f"echo >>{started}; until [ -e {gate} ]; do sleep 0.02; done; sed 's/^/200 /'"
        node.put("gated", lang="exec", body=["sh", "-c", script])
        ids = node.add("gated", [b"%d" % number * 5000 for number in range(100)])
        wait_until(started.exists, "the jobs run")
        wait_until(lambda: fills_up(node, disk), "the reserve is used up")
        gate.touch()
        wait_until(lambda: "store: " in node.problems(), "/healthz names the store")
        fill(disk)
        assert is_refused(node.post("gated", [b"too late"]))
        assert {node.job(id_)["state"] for id_ in ids} == {"running"}
        empty(disk)
        jobs = [node.done(id_) for id_ in ids]
        assert [job["result"] for job in jobs] == [str(number) * 5000 for number in range(100)]
        assert {job["attempt"] for job in jobs} == {1}
        assert started.read_text().count("\n") == 1
        accepts_again(node, "gated")
        wait_until(lambda: not node.problems(), "/healthz says ok")


def fills_up(node: Node, disk: Path) -> bool:
    """Fill the disk, let the node notice it and free its reserve, and fill that too; return
    whether there is no room left."""
    fill(disk)
    assert is_refused(node.post("gated", [b"too late"]))
    fill(disk)
    return free_bytes(disk) == 0


class Caller(threading.Thread):
    """Adds jobs until it is told to stop, and counts what it is answered."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._stopped = threading.Event()
        self.acked: list[str] = []
        self.refused = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                answer = self._node.post("echo", [b"x" * 1000] * 20)
                if is_refused(answer):
                    self.refused += 1
                else:
                    assert answer.status == 202, answer
                    self.acked += answer.document["ids"]
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        self._stopped.set()
        self.join()
        assert self.failure is None

    def is_accepted(self, timeout_s: float) -> None:
        before = len(self.acked)
        wait_until(lambda: len(self.acked) > before, "it accepts", timeout_s=timeout_s)

    def is_refused(self) -> None:
        before = self.refused
        wait_until(lambda: self.refused > before, "it refuses")


@pytest.mark.proof("T6")
def test_filling_and_emptying_the_disk_again_and_again_loses_nothing(
    disk: Path, proof: Proof
) -> None:
    cycles = proof.size(submission=3, release=100)
    with Node(disk, SLIMQ_JOURNAL__RETAIN="0ms") as node:
        node.put("echo", lang="exec", body=ECHO)
        caller = Caller(node)
        caller.start()
        try:
            caller.is_accepted(30)
            for _ in range(cycles):
                fill(disk)
                caller.is_refused()
                empty(disk)
                caller.is_accepted(5)
        finally:
            caller.end()
        wait_until(lambda: node.has_run("echo"), "all have run")
        wait_until(lambda: not node.problems(), "/healthz says ok")
        ok = [job["id"] for job in node.jobs(outcome="ok")]
        assert len(ok) == len(caller.acked)
        assert set(ok) == set(caller.acked)
        assert node.quit() == 0
    proof.report(cycles=cycles, accepted=len(ok), lost=0)


def test_accepting_goes_on_while_only_the_disk_of_the_store_is_full(
    tmp_path: Path, disk: Path
) -> None:
    """The reserve of the journal would not help a store that is elsewhere."""
    with Node(tmp_path, SLIMQ_STORE__PATH=str(disk / "store.db")) as node:
        node.put("echo", lang="exec", body=ECHO)
        fill(disk)
        ids: list[str] = []

        def runs_full() -> bool:
            answer = node.post("echo", [b"x" * 10_000] * 20)
            assert answer.status == 202, answer
            ids.extend(answer.document["ids"])
            return "its disk is full" in node.problems()

        wait_until(runs_full, "/healthz says that the disk of the store is full")
        for _ in range(20):
            runs_full()
        assert "journal: " not in node.problems()
        assert node.call("GET", "/readyz") == {"status": "ready"}
        assert node.job(ids[-1])["state"] == "accepted"
        empty(disk)
        wait_until(lambda: not node.problems(), "/healthz says ok")
        assert node.done(ids[-1])["status"] == 200
        wait_until(lambda: node.has_run("echo"), "all have run")
        assert len(list(node.jobs(outcome="ok"))) == len(ids)


@pytest.mark.parametrize("is_reserve_left", [True, False], ids=["reserve", "no reserve"])
def test_a_node_that_was_killed_on_a_full_disk_starts_there_and_refuses_until_there_is_room(
    disk: Path, is_reserve_left: bool
) -> None:
    with Node(disk) as node:
        ids = node.add("later", [b"a", b"b", b"c"])
        wait_until(node.is_all_in, "all are in the store")
        if is_reserve_left:
            fill(disk)
        else:
            wait_until(lambda: fills_up(node, disk), "the reserve is used up")
        node.kill()
        fill(disk)
        node.start()
        assert is_refused(node.post("later", [b"too late"]))
        assert "the disk is full" in node.problems()
        empty(disk)
        accepts_again(node, "later")
        wait_until(lambda: not node.problems(), "/healthz says ok")
        node.put("later", lang="exec", body=ECHO)
        assert [node.done(id_)["result"] for id_ in ids] == ["a", "b", "c"]


def test_the_engine_is_stopped_and_started_also_on_a_full_disk(disk: Path) -> None:
    """Or the answer says why not; never an unexpected error."""
    with Node(disk) as node:
        fill(disk)
        for path in ("/stop", "/start"):
            answer = node.ask("POST", path)
            assert answer.status in (200, 503, 507), answer
        empty(disk)
        node.call("POST", "/stop")
        node.call("POST", "/start")
        node.put("echo", lang="exec", body=ECHO)
        assert node.done(accepts_again(node, "echo")[0])["result"] == "again"


def test_a_node_ends_with_0_also_on_a_full_disk(disk: Path) -> None:
    with Node(disk) as node:
        ids = node.add("later", [b"a", b"b"])
        wait_until(lambda: fills_up(node, disk), "the reserve is used up")
        assert node.quit() == 0, node.log
        assert not [line for line in node.log if "Traceback" in line]
        empty(disk)
        node.start()
        node.put("later", lang="exec", body=ECHO)
        assert [node.done(id_)["result"] for id_ in ids] == ["a", "b"]
