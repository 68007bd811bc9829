"""Functions as a newcomer uses them: the command line, a node as it comes, the real sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import Node, wait_until

from sandbox_kit import need
from wheel_kit import builder_of, make_wheel, need_builder

HASH = """
import hashlib
def handler(event, context):
    return hashlib.sha256(event).hexdigest()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    need_sandbox()
    with Node(tmp_path) as node:
        yield node


def need_sandbox() -> None:
    need(shutil.which("bwrap") is not None, "bubblewrap is missing: apt-get install bubblewrap")


def slimq(node: Node, *words: str, given: str = "") -> str:
    """Run the command line; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "slimq", *words],
        env={**os.environ, "SLIMQ_URL": node.url},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_is_deployed_tried_and_run(node: Node, tmp_path: Path) -> None:
    (tmp_path / "hash.py").write_text(HASH)
    slimq(node, "fn", "deploy", "hash", str(tmp_path / "hash.py"))
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert digest in slimq(node, "fn", "invoke", "hash", "--json", given="hello\n")
    (id_,) = node.add("hash", [b"hello"])
    assert node.done(id_)["result"] == digest
    assert node.quit() == 0


def test_runs_are_seen_as_they_end(node: Node, tmp_path: Path) -> None:
    (tmp_path / "hash.py").write_text("def handler(event, context): print('so')")
    slimq(node, "fn", "deploy", "hash", str(tmp_path / "hash.py"))
    with subprocess.Popen(
        [sys.executable, "-m", "slimq", "fn", "tail", "hash", "--count", "1", "--json"],
        env={**os.environ, "SLIMQ_URL": node.url},
        stdout=subprocess.PIPE,
    ) as tail:
        ids = []
        while tail.poll() is None:  # what runs before its first look is not shown
            ids += node.add("hash", [b"hello"])
            node.done(ids[-1])
        assert tail.stdout is not None
        run = json.loads(tail.stdout.read())
    assert run["id"] in ids
    assert (run["type"], run["status"], run["output"]) == ("main/hash", 200, "so\n")


def test_a_function_that_takes_too_much_memory_hurts_no_other_job(node: Node) -> None:
    source = "def handler(event, context):\n    if event == b'x': return len(b'x' * (1 << 30))\n"
    options = {"memory": "64MiB", "backoff": {"min": "1ms", "max": "1ms"}, "max_failures": 2}
    node.put("hog", lang="python", body=source, options=options)
    ids = node.add("hog", [b"a", b"x", b"b"])
    jobs = [node.done(id_) for id_ in ids]
    assert [job["status"] // 100 for job in jobs] == [2, 5, 2]


def test_no_context_survives_its_node(node: Node) -> None:
    source = "import time\ndef handler(event, context): time.sleep(60)\n"
    node.put("slow", lang="python", body=source)
    node.add("slow", [b"x"])
    wait_until(lambda: contexts(node), "a context at work")
    node.kill()
    wait_until(lambda: not contexts(node), "the end of the context")


def contexts(node: Node) -> list[str]:
    """Return the processes that read the functions of a node."""
    mark = str(node.data / "functions").encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.timeout(180)
def test_deploying_under_load_loses_and_fails_nothing(node: Node) -> None:
    source = "def handler(event, context): return context.function_version\n"
    node.put("v", lang="python", body=source, options={"batch_size": 50})
    ids: list[str] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            ids.extend(node.add("v", [b"x"] * 200))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(5):
            body = f"{source}# {number}\n"
            node.put("v", lang="python", body=body, options={"batch_size": 50})
    finally:
        over.set()
        thread.join()
    wait_until(lambda: node.has_run("v"), "all jobs to be done", timeout_s=120)
    counts = node.call("GET", "/types/v?client=main")
    assert (counts["ok"], counts["failed"], counts["error"]) == (len(ids), 0, 0)
    assert {job["attempt"] for job in node.jobs(jobtype="v")} == {1}


def test_packages_and_environments_are_seen_in_the_sandbox(tmp_path: Path) -> None:
    need_sandbox()
    need_builder()
    wheels, venv = tmp_path / "wheels", tmp_path / "imaging"
    make_wheel(wheels, "shout", "1.0", shout="def loud(data): return data.upper()\n")
    make_venv = [sys.executable, "-m", "venv", "--without-pip", venv]
    subprocess.run(make_venv, check=True, umask=0o022)  # functions read it as other users
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "quiet.py").write_text("def low(data): return data.lower()\n")
    (site / "quiet.py").chmod(0o644)
    tmp_path.chmod(0o755)
    source = tmp_path / "loud.py"
    source.write_text("import shout\ndef handler(event, context): return shout.loud(event)\n")
    lower = "import quiet\ndef handler(event, context): return quiet.low(event)\n"
    settings = {**builder_of(wheels), "SLIMQ_ENVIRONMENTS__IMAGING": str(venv)}
    with Node(tmp_path, **settings) as node:
        words = ("fn", "deploy", "loud", str(source), "--option")
        slimq(node, *words, 'requirements=["shout==1.0"]')
        (id_,) = node.add("loud", [b"Hello"])
        assert node.done(id_)["result"] == "HELLO"
        said = refused(node, *words, 'requirements=["shout==2.0"]')
        assert "No matching distribution found for shout==2.0" in said
        assert "asks for packages" in said  # progress, while the builder was at work
        assert node.call("GET", "/handlers/loud")["version"] == 1
        node.put("low", lang="python", body=lower, options={"eid": "imaging"})
        (id_,) = node.add("low", [b"Hello"])
        assert node.done(id_)["result"] == "hello"
        answer = node.ask("PUT", "/handlers/low?lang=python&options=%7B%22eid%22%3A%22x%22%7D", b"")
        assert answer.status == 422


def refused(node: Node, *words: str) -> str:
    """Run the command line, which must fail; return what it complained."""
    done = subprocess.run(
        [sys.executable, "-m", "slimq", *words],
        env={**os.environ, "SLIMQ_URL": node.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 7, done.stdout
    return done.stderr
