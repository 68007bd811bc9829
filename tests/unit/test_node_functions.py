"""A whole node that runs functions: from the upload to what became of the jobs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from node_yard import Caller, Yard
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups

UPPER = "def handler(event, context): return event.upper()\n"
VERSION = "def handler(event, context): return context.function_version\n"


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path, {"functions.sandbox": "off"})


def play(yard: Yard, scene: Any) -> None:
    assert yard.run(scene) == 0
    assert not [event for event in yard.events() if event["level"] == "error"]


async def put(caller: Caller, jobtype: str, source: Any, **options: Any) -> Any:
    document = {"lang": "python", "body": source, "options": options}
    return await caller.call("PUT", f"/handlers/{jobtype}", json=document)


def test_a_function_that_is_uploaded_runs_the_lines(yard: Yard) -> None:
    async def scene(caller: Caller) -> None:
        await caller.call("PUT", "/handlers/up?lang=python", data=UPPER.encode())
        ids = await caller.add("/add?jobtype=up", b"one\ntwo\n")
        assert [(await caller.done(id_))["result"] for id_ in ids] == ["ONE", "TWO"]
        status = (await caller.call("GET", "/status"))["node"]["functions"]
        assert status["contexts"] == {"busy": 0, "idle": 1}
        assert status["starts"]["cold"] == 1

    play(yard, scene)


def test_a_script_that_is_uploaded_runs_the_lines(yard: Yard) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node")

    async def scene(caller: Caller) -> None:
        source = b"export const handler = (event) => String(event).toUpperCase();"
        await caller.call("PUT", "/handlers/up?lang=node", data=source)
        ids = await caller.add("/add?jobtype=up", b"one\ntwo\n")
        assert [(await caller.done(id_))["result"] for id_ in ids] == ["ONE", "TWO"]

    play(yard, scene)


def test_a_language_that_nothing_runs_here_is_refused_and_its_jobs_wait(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(caller: Caller) -> None:
        source = b"exports.handler = () => 1;"
        with pytest.raises(AssertionError, match=r"no node in PATH: install Node\.js"):
            await caller.call("PUT", "/handlers/up?lang=node", data=source)

    monkeypatch.setenv("PATH", "/nowhere")
    assert yard.run(scene) == 0


def test_after_a_restart_a_function_is_there_still(yard: Yard) -> None:
    async def before(caller: Caller) -> None:
        await put(caller, "up", UPPER)

    async def after(caller: Caller) -> None:
        (id_,) = await caller.add("/add?jobtype=up", b"x\n")
        assert (await caller.done(id_))["result"] == "X"

    play(yard, before)
    play(yard, after)


def test_without_a_sandbox_functions_are_refused_and_their_jobs_wait(yard: Yard) -> None:
    async def with_sandbox(caller: Caller) -> None:
        await put(caller, "up", UPPER)

    async def without(caller: Caller) -> None:
        (id_,) = await caller.add("/add?jobtype=up", b"x\n")
        assert await caller.status("PUT", "/handlers/other?lang=python") == 422
        with pytest.raises(AssertionError, match="run in a sandbox"):
            await caller.call("POST", "/handlers/up/invoke", data=b"x")
        job = await caller.call("GET", f"/jobs/{id_}")
        assert job["state"] in ("accepted", "ready")
        await caller.call("PUT", "/handlers/cat", json={"lang": "exec", "body": ["cat"]})
        (other,) = await caller.add("/add?jobtype=cat", b"200\n")
        await caller.done(other)  # the engine had its turn
        assert (await caller.call("GET", f"/jobs/{id_}"))["state"] == "ready"

    async def again(caller: Caller) -> None:
        (job,) = (await caller.call("GET", "/jobs?jobtype=up"))["jobs"]
        assert (await caller.done(job["id"]))["attempt"] == 1

    play(yard, with_sandbox)
    assert yard.run(without, sandbox=Sandbox(ControlGroups(), search_path="/nowhere")) == 0
    play(yard, again)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_in_place(yard: Yard) -> None:
    async def scene(caller: Caller) -> None:
        await put(caller, "up", UPPER)
        with pytest.raises(AssertionError, match=r'"file":"main\.py","line":1'):
            await put(caller, "up", "def handler(:")
        assert (await caller.call("GET", "/handlers/up"))["version"] == 1
        (id_,) = await caller.add("/add?jobtype=up", b"x\n")
        assert (await caller.done(id_))["result"] == "X"

    play(yard, scene)


def test_deploying_again_and_again_under_load_loses_and_fails_nothing(yard: Yard) -> None:
    async def scene(caller: Caller) -> None:
        await put(caller, "v", VERSION, batch_size=10)
        ids: list[str] = []
        for number in range(2, 7):
            ids += await caller.add("/add?jobtype=v", b"x\n" * 300)
            await put(caller, "v", VERSION + f"# {number}\n", batch_size=10)
        ids += await caller.add("/add?jobtype=v", b"x\n" * 10)
        jobs = [await caller.done(id_) for id_ in ids]
        assert {job["status"] for job in jobs} == {200}
        assert {job["attempt"] for job in jobs} == {1}
        assert {job["result"] for job in jobs} <= {str(number) for number in range(1, 7)}
        assert jobs[-1]["result"] == "6"

    play(yard, scene)


def test_the_jobs_that_a_function_adds_run_and_no_retry_adds_them_twice(yard: Yard) -> None:
    parent = (
        "def handler(event, context):\n"
        "    for n in range(3): context.enqueue('child', str(n))\n"
        "    if context.attempt == 1: raise context.Retry\n"
    )

    async def scene(caller: Caller) -> None:
        await put(caller, "parent", parent, backoff={"min": "1ms", "max": "1ms"})
        await put(caller, "child", UPPER)
        (id_,) = await caller.add("/add?jobtype=parent", b"x\n")
        job = await caller.done(id_)
        assert (job["attempt"], job["failures"]) == (2, 0)
        await caller.all_in()
        jobs = (await caller.call("GET", "/jobs?jobtype=child"))["jobs"]
        assert sorted([(await caller.done(job["id"]))["result"] for job in jobs]) == ["0", "1", "2"]

    play(yard, scene)


def test_a_job_that_kills_its_context_is_done_after_three_times_and_hurts_no_other(
    yard: Yard,
) -> None:
    source = "import os\ndef handler(event, context):\n    if event == b'x': os.abort()\n"

    async def scene(caller: Caller) -> None:
        await put(caller, "die", source, backoff={"min": "1ms", "max": "1ms"})
        ids = await caller.add("/add?jobtype=die", b"a\nx\nb\n")
        jobs = [await caller.done(id_) for id_ in ids]
        assert [job["status"] for job in jobs] == [200, 520, 200]
        assert [job["crashes"] for job in jobs] == [0, 3, 0]
        assert [job["failures"] for job in jobs] == [0, 0, 0]

    play(yard, scene)


def test_a_try_shows_what_comes_of_some_lines_and_keeps_nothing(yard: Yard) -> None:
    source = (
        "def handler(event, context):\n    print('seen', event)\n"
        "    context.enqueue('child', event)\n    return 1 // int(event)\n"
    )

    async def scene(caller: Caller) -> None:
        await put(caller, "half", source, batch_size=2)
        tried = await caller.call("POST", "/handlers/half/invoke", data=b"1\n0\n1\n")
        assert [each["status"] for each in tried["results"]] == [200, 500, 200]
        assert "ZeroDivisionError" in tried["results"][1]["error"]
        assert tried["results"][0]["children"] == [{"jobtype": "child", "data": "1"}]
        assert tried["output"] == "seen b'1'\nseen b'0'\nseen b'1'\n"
        assert (await caller.call("GET", "/jobs"))["jobs"] == []

    play(yard, scene)


def test_the_progress_of_a_running_job_is_shown(yard: Yard, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    source = (
        "import os, time\ndef handler(event, context):\n    context.progress(3, 10)\n"
        f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
    )

    async def scene(caller: Caller) -> None:
        await put(caller, "slow", source)
        (id_,) = await caller.add("/add?jobtype=slow", b"x\n")
        async with asyncio.timeout(30):
            while "progress" not in (job := await caller.call("GET", f"/jobs/{id_}")):
                await asyncio.sleep(0.01)
        assert job["progress"] == {"done": 3, "total": 10}
        go_on.touch()
        assert "progress" not in await caller.done(id_)

    play(yard, scene)


def test_the_contexts_are_in_the_metrics(yard: Yard) -> None:
    async def scene(caller: Caller) -> None:
        await put(caller, "up", UPPER)
        (id_,) = await caller.add("/add?jobtype=up", b"x\n")
        await caller.done(id_)
        metrics = await caller.text("/metrics")
        assert 'slimq_contexts{state="idle"} 1.0' in metrics
        assert 'slimq_function_runs_total{start="cold"} 1.0' in metrics
        assert 'slimq_contexts_ended_total{why="recycled"} 0.0' in metrics

    play(yard, scene)
