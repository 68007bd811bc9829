"""A whole node in this process: how it starts, remembers, ends, and what ends it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node_yard import Caller, Yard
from slimq.errors import FolderUnusable
from slimq.node import replay
from slimq.store.base import Node as NodeRow
from slimq.system.chance import SystemChance

ECHO = {"lang": "exec", "body": ["sed", "s/^/200 /"]}


class SameChance(SystemChance):
    """Draws the same token every time."""

    def token(self, size: int) -> bytes:
        return b"\7" * size


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_a_sysid_that_a_living_node_has_ends_the_node_with_exit_code_1(yard: Yard) -> None:
    async def look(caller: Caller) -> None:
        sysids.append(caller.node.sysid)

    sysids: list[str] = []
    assert yard.run(look, SameChance()) == 0
    store = yard.store()
    assert store.register(NodeRow(sysids[0], store.now(), store.now(), {}))
    store.close()
    assert yard.run(chance=SameChance()) == 1
    (died,) = [event for event in yard.events() if event["event"] == "thread.died"]
    assert died["thread"] == "engine"
    assert "start again" in died["reason"]


def test_a_suspended_engine_is_suspended_after_a_restart_until_it_is_started(yard: Yard) -> None:
    ids: list[str] = []

    async def suspend(caller: Caller) -> None:
        await caller.call("PUT", "/handlers/echo", json=ECHO)
        await caller.call("POST", "/stop")
        ids.extend(await caller.add("/add?jobtype=echo", b"x\n"))

    async def resume(caller: Caller) -> None:
        assert (await caller.call("GET", "/status"))["state"] == "stopped"
        assert (await caller.call("GET", f"/jobs/{ids[0]}"))["state"] != "done"
        await caller.call("POST", "/start")
        assert (await caller.done(ids[0]))["result"] == "x"

    assert (yard.run(suspend), yard.run(resume)) == (0, 0)


def test_the_log_follows_a_job_by_its_id_and_shows_nothing_of_its_data(yard: Yard) -> None:
    ids: list[str] = []

    async def run_one(caller: Caller) -> None:
        await caller.call("PUT", "/handlers/echo", json=ECHO)
        ids.extend(await caller.add("/add?jobtype=echo", b"confidential\n"))
        await caller.done(ids[0])

    assert yard.run(run_one) == 0
    of_job = [event["event"] for event in yard.events() if ids[0] in event.get("ids", [])]
    assert of_job == ["jobs.accepted", "jobs.started", "jobs.completed"]
    assert "confidential" not in yard.log.getvalue()


def test_jobs_that_are_to_be_stored_are_in_the_store_when_the_answer_comes(yard: Yard) -> None:
    async def scene(caller: Caller) -> None:
        level = await caller.durability("/add?jobtype=later&durability=store", b"a\nb\n")
        store = yard.store()
        assert (level, store.totals().waiting) == ("store", 2)
        store.close()

    assert yard.run(scene) == 0


def test_a_search_of_the_journal_that_takes_long_keeps_no_other_caller_waiting(
    tmp_path: Path,
) -> None:
    yard = Yard(tmp_path, {"store.path": str(tmp_path / "missing" / "store.db")})

    async def scene(caller: Caller) -> None:
        jobs = [{"jobtype": "a", "data": "1"}, {"jobtype": "b", "data": "2"}]
        await caller.call("POST", "/jobs", json=jobs)
        with slow_to_open(yard.config.journal_path) as release:
            search = asyncio.create_task(caller.status("GET", "/jobs/0000000-00000000-0000"))
            for _ in range(3):
                await caller.add("/add?jobtype=a", b"x\n")
            assert not search.done()
            while not release():
                await asyncio.sleep(0)
            assert await search == 503

    assert yard.run(scene) == 0


@contextmanager
def slow_to_open(folder: Path) -> Iterator[Callable[[], bool]]:
    """Let who opens the segment wait until it is released; tell then whether someone was."""
    (segment,) = folder.glob("*.journal")
    aside = segment.rename(segment.with_suffix(".aside"))
    os.mkfifo(segment)

    def release() -> bool:
        try:
            os.close(os.open(segment, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody has opened it
            return False
        return True

    try:
        yield release
    finally:
        segment.unlink()
        aside.rename(segment)


def test_a_store_that_is_taken_back_to_a_backup_is_healed_from_the_journal(yard: Yard) -> None:
    ids: list[str] = []

    async def add_two(caller: Caller) -> None:
        ids.extend(await caller.add("/add?jobtype=echo", b"a\nb\n"))

    async def run_all(caller: Caller) -> None:
        await caller.call("PUT", "/handlers/echo", json=ECHO)
        for id_ in ids:
            assert (await caller.done(id_))["status"] == 200

    backup = yard.folder / "backup.db"
    assert yard.run(_nothing) == 0
    shutil.copy(yard.config.store_path, backup)
    assert yard.run(add_two) == 0
    shutil.copy(backup, yard.config.store_path)
    assert yard.run(run_all) == 0


def test_a_replay_reads_the_journal_again_and_adds_nothing_twice(yard: Yard) -> None:
    async def add_two(caller: Caller) -> None:
        await caller.add("/add?jobtype=later", b"a\nb\n")

    async def count(caller: Caller) -> None:
        await caller.durability("/add?jobtype=later&durability=store", b"c\n")
        status = await caller.call("GET", "/status")
        assert status["jobs"]["waiting"] == 3
        assert status["node"]["counters"]["ingested"] == 1

    assert yard.run(add_two) == 0
    replay(yard.config, 0)
    assert yard.run(count) == 0


def test_a_damaged_state_file_is_named_with_what_to_do(yard: Yard) -> None:
    assert yard.run(_nothing) == 0
    Path(yard.config.data.path, "node.json").write_text("{")
    with pytest.raises(FolderUnusable, match=r"node\.json is damaged.*delete it"):
        yard.run(_nothing)


async def _nothing(caller: Caller) -> None:
    """Start and quit."""
