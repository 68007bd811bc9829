"""A store in trouble: accepting goes on, the node says what is wrong, and heals by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from node_kit import ECHO, Node, bound_by_modes, commands_of, wait_until

# The lock is held until the end of stdin. Another process must do it: SQLite's locks are
# those of a process.
_HOLD_LOCK = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
db.execute("ROLLBACK")
db.close()
"""
_SET_VERSION = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
print(db.pragma("user_version"))
db.pragma("user_version", int(sys.argv[2]))
db.execute("UPDATE meta SET value = ? WHERE name = 'schema_least'", (int(sys.argv[2]),))
db.close()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as node:
        node.put("echo", lang="exec", body=ECHO)
        yield node


def files_of(store: Path) -> list[Path]:
    return [path for path in store.parent.iterdir() if path.name.startswith(store.name)]


def remove(store: Path) -> None:
    for path in files_of(store):
        path.unlink()


def back_up(store: Path, to: Path) -> None:
    """Copy a store in use, as the documentation advises."""
    source, target = apsw.Connection(str(store)), apsw.Connection(str(to))
    with target.backup("main", source, "main") as backup:
        backup.step()
    source.close()
    target.close()


@contextmanager
def locked(store: Path) -> Iterator[None]:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD_LOCK, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        holder.communicate(timeout=30)


def set_version(store: Path, version: int) -> int:
    """Set the schema version as a newer slimq does that no older one goes on beside; return
    the old one."""
    said = subprocess.run(
        [sys.executable, "-c", _SET_VERSION, store, str(version)],
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    return int(said.stdout)


def accepts_and_says(node: Node, words: str) -> list[str]:
    """Assert that a node whose store cannot be used accepts jobs and says what is wrong;
    return the ids of the jobs."""
    wait_until(lambda: words in node.problems(), f"/healthz says {words!r}")
    status = node.call("GET", "/status")
    assert words in status["node"]["store"]["error"]
    assert node.call("GET", "/readyz") == {"status": "ready"}
    answer = node.post("echo", [b"a", b"b"], timeout=4)
    assert answer.status == 202
    assert answer.headers["slimq-durability"] == "journal"
    ids: list[str] = answer.document["ids"]
    assert [node.job(id_)["state"] for id_ in ids] == ["accepted", "accepted"]
    assert node.call("GET", "/status")["node"]["journal"]["pending_bytes"] > 0
    return ids


def runs_by_itself(node: Node, ids: list[str]) -> None:
    assert [node.done(id_)["result"] for id_ in ids] == ["a", "b"]
    wait_until(lambda: not node.problems(), "/healthz says ok")
    status = node.call("GET", "/status")
    assert status["store"]["up"] is True
    assert status["node"]["journal"]["pending_bytes"] == 0
    assert node.quit() == 0


def test_a_store_that_was_deleted_while_the_node_was_stopped_is_healed_from_the_journal(
    node: Node,
) -> None:
    script = 'while read -r line; do echo "#J: child|of $line"; echo "200 $line"; done'
    node.put("parent", lang="exec", body=["sh", "-c", script])
    ids = node.add("parent", [b"p%d" % number for number in range(300)])
    deferred = node.post("later", [b"x"], "&delay=1h").document["ids"]
    keyed = node.post("later", [b"y"], key="order-7").document["ids"]
    wait_until(lambda: node.has_run("parent"), "all parents have run")
    wait_until(node.is_all_in, "all children are in the store")
    children = {job["id"] for job in node.jobs(jobtype="child")}
    assert node.quit() == 0
    remove(node.store)
    node.start()
    assert node.post("later", [b"y"], key="order-7").document["ids"] == keyed
    wait_until(node.is_all_in, "the journal is in the store again")
    assert node.count("later") == 2
    assert {job["id"] for job in node.jobs(jobtype="parent")} == set(ids)
    assert node.job(deferred[0])["state"] == "deferred"
    node.put("parent", lang="exec", body=["sh", "-c", script])  # handlers were in the store only
    node.put("child", lang="exec", body=ECHO)
    wait_until(lambda: node.has_run("parent"), "all parents have run again")
    assert [node.done(id_)["result"] for id_ in ids[::100]] == ["p0", "p100", "p200"]
    wait_until(lambda: node.has_run("child"), "all children have run")
    healed = [job["id"] for job in node.jobs(jobtype="child", outcome="ok")]
    assert len(healed) == 300
    assert set(healed) == children


def test_a_store_whose_file_is_gone_is_never_replaced_and_goes_on_when_it_is_back(
    node: Node,
) -> None:
    (before,) = node.add("echo", [b"before"])
    node.done(before)
    elsewhere = node.folder / "elsewhere.db"
    node.store.rename(elsewhere)
    ids = accepts_and_says(node, "its file is gone")
    unknown = node.ask("GET", f"/jobs/{before}")
    assert (unknown.status, unknown.document["type"]) == (503, "/problems/store-unavailable")
    assert "its file is gone" in node.call("GET", "/status")["store"]["error"]
    assert not node.store.exists()
    elsewhere.rename(node.store)
    assert node.done(before)["result"] == "before"
    runs_by_itself(node, ids)


def test_a_store_whose_file_is_gone_for_good_is_healed_by_a_restart(node: Node) -> None:
    ids = node.add("echo", [b"a", b"b"])
    for id_ in ids:
        node.done(id_)
    remove(node.store)
    ids += accepts_and_says(node, "restart for an empty one")
    assert node.quit() == 0
    node.start()
    node.put("echo", lang="exec", body=ECHO)
    assert [node.done(id_)["result"] for id_ in ids] == ["a", "b", "a", "b"]
    assert node.problems() == ""


def test_a_backup_that_is_put_back_while_the_node_runs_is_healed_from_the_journal(
    node: Node,
) -> None:
    known = node.add("echo", [b"known"])
    node.done(known[0])
    backup = node.folder / "backup.db"
    back_up(node.store, backup)
    missing = node.add("echo", [b"%d" % number for number in range(50)])
    for id_ in missing:
        node.done(id_)
    node.store.rename(node.folder / "old.db")
    remove(node.store)
    wait_until(lambda: "its file is gone" in node.problems(), "the node sees that it is gone")
    backup.rename(node.store)
    wait_until(lambda: not node.problems(), "the node uses the backup")
    wait_until(
        lambda: {job["id"] for job in node.jobs()} == {*known, *missing},
        "what the backup lacks comes from the journal",
        timeout_s=10,
    )
    assert [node.done(id_)["result"] for id_ in missing] == [str(n) for n in range(50)]


def test_while_another_process_locks_the_store_jobs_are_accepted_and_run_after_that(
    node: Node,
) -> None:
    gate, started = node.folder / "gate", node.folder / "started"
    script = f"echo >>{started}; until [ -e {gate} ]; do sleep 0.02; done; sed 's/^/200 /'"
    node.put("gated", lang="exec", body=["sh", "-c", script])
    running = node.add("gated", [b"a", b"b"])
    (before,) = node.add("echo", [b"before"])
    node.done(before)
    wait_until(started.exists, "the jobs run")
    with locked(node.store):
        gate.touch()
        wait_until(lambda: commands_of(node) == [], "what ran is over")  # but not finished
        early = node.add("echo", [b"a", b"b"])  # the engine waits for the lock meanwhile
        assert [node.job(id_)["state"] for id_ in early] == ["accepted", "accepted"]
        ids = accepts_and_says(node, "holds its lock")
        assert node.job(before)["result"] == "before"  # what only reads is not locked out
        assert [node.job(id_)["state"] for id_ in running] == ["running", "running"]
    assert [node.done(id_)["result"] for id_ in (*running, *early)] == ["a", "b"] * 2
    assert [node.job(id_)["attempt"] for id_ in running] == [1, 1]
    assert started.read_text().count("\n") == 1
    runs_by_itself(node, ids)


def test_a_read_only_store_is_named_and_used_again_once_it_can_be_written(tmp_path: Path) -> None:
    with Node(tmp_path, prefix=bound_by_modes()) as node:
        node.put("echo", lang="exec", body=ECHO)
        assert node.quit() == 0
        node.store.chmod(0o400)
        node.start()
        ids = accepts_and_says(node, "cannot be written")
        node.store.chmod(0o600)
        runs_by_itself(node, ids)


def test_a_store_of_a_newer_version_is_left_alone_and_used_again_when_it_fits(node: Node) -> None:
    assert node.quit() == 0
    known = set_version(node.store, 99)
    node.start()
    ids = accepts_and_says(node, "has schema 99")
    refusal = node.ask("GET", "/jobs")
    assert (refusal.status, refusal.document["type"]) == (503, "/problems/store-too-new")
    assert set_version(node.store, known) == 99
    runs_by_itself(node, ids)


def test_a_store_with_a_damaged_header_is_left_alone_until_a_good_one_is_put_back(
    node: Node,
) -> None:
    assert node.quit() == 0
    good = node.folder / "good.db"
    back_up(node.store, good)
    damaged = b"garbage!" * 512 + node.store.read_bytes()[4096:]
    node.store.write_bytes(damaged)
    node.start()
    ids = accepts_and_says(node, "not a SQLite database")
    assert node.store.read_bytes() == damaged
    good.replace(node.store)
    runs_by_itself(node, ids)


def test_a_store_in_a_folder_that_does_not_exist_yet_is_used_once_it_does(tmp_path: Path) -> None:
    store = tmp_path / "later" / "store.db"
    with Node(tmp_path, SLIMQ_STORE__PATH=str(store)) as node:
        ids = accepts_and_says(node, "No such file or directory")
        store.parent.mkdir()
        wait_until(lambda: not node.problems(), "/healthz says ok")
        node.put("echo", lang="exec", body=ECHO)
        runs_by_itself(node, ids)
