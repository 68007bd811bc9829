"""A node that is killed at each single system call by which its journal or store changes.

Its life is always the same: it starts on a folder with jobs to bring in, jobs to purge and
segments to delete, takes requests of each durability, runs them, and ends.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from load_kit import NO_ANSWER
from node_kit import EndedAtStart, Node, wait_until
from nth_call import CALLS
from power_kit import PURGE_NS, Judge, Request, recover, when_run

from postgres_kit import Server
from proof_kit import Proof

TRACER = Path(__file__).with_name("nth_call.py")
SETTINGS = {"SLIMQ_PURGE__OK": f"{PURGE_NS // 10**9}s", "SLIMQ_JOURNAL__RETAIN": "0s"}
KILLED = 256 - 9  # the exit code of a command that was killed, as a byte
CALLS_MAX = 10_000
RUN_EVERY = 4  # after so many kills it is started again to the end

pytestmark = pytest.mark.skipif(
    platform.machine() not in CALLS, reason=f"no numbers of system calls of {platform.machine()}"
)


class Life:
    """The scripted life. `prepare` makes what it begins with, once; `kill_at` lives it.
    `copy_store` gives a new copy of a store that is not in the folder, by its address."""

    def __init__(self, folder: Path, url: str = "", copy_store: Callable[[], str] = str) -> None:
        self._folder = folder
        self._url = url
        self._copy_store = copy_store
        self._ran = folder / "ran"
        self._ran.mkdir()
        self._before: list[Request] = []

    def prepare(self) -> None:
        command = ["sh", "-c", f'tee "{self._ran}/$SLIMQ_SYSID-$$" | sed "s/^/200 /"']
        (self._folder / "prepared").mkdir()
        with Node(self._folder / "prepared", **self._settings()) as node:
            node.put("work", lang="exec", body=command, options={"batch_size": 10})
            self._before.append(post(node, "journal", [b"purged %d" % n for n in range(20)]))
            wait_until(lambda: node.has_run("work"), "all have run")
            assert node.quit() == 0
            node.start()
            self._before.append(post(node, "journal", [b"left %d" % n for n in range(20)]))
            node.kill()
        time.sleep(2 * PURGE_NS / 1e9)  # then the first are old enough to be purged

    def kill_at(self, call: int) -> tuple[int, int, list[Request]]:
        """Live until that call, or to the end. Return the exit code, how many calls were
        made, and what was sent."""
        place = self._folder / "life"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._folder / "prepared", place)
        self._url = self._copy_store()
        prefix = [sys.executable, str(TRACER), str(call), "kill", str(place / "data")]
        sent: list[Request] = []
        try:
            with Node(place, prefix=prefix, **self._settings()) as node:
                try:
                    self._script(node, sent)
                except NO_ANSWER:
                    pass  # it was killed
                code = node.ended()
        except EndedAtStart:
            code = KILLED
        return code, int((place / "calls").read_text()), sent

    def _settings(self) -> dict[str, str]:
        return SETTINGS | ({"SLIMQ_STORE__URL": self._url} if self._url else {})

    def _script(self, node: Node, sent: list[Request]) -> None:
        for number, level in enumerate(("journal", "buffered", "store", "journal")):
            lines = [b"%s %d %d" % (level.encode(), number, n) for n in range(1 + 3 * number)]
            request = Request(lines, "journal", time.monotonic_ns())  # a kill takes nothing
            sent.append(request)
            answered = post(node, level, lines)
            request.ids, request.acked_at = answered.ids, answered.acked_at
        for request in sent:
            for id_ in request.ids:
                assert node.done(id_)["status"] == 200
        node.call("POST", "/quit")

    def check(self, sent: list[Request]) -> None:
        """Assert that what was acknowledged is there, once."""
        judge = Judge(self._before + sent, when_run(self._ran))
        found = recover(self._folder / "life" / "data", self._url)
        judge.judge(found, time.monotonic_ns())

    def check_runs(self, sent: list[Request]) -> None:
        """Assert that a node starts there, and that all that was acknowledged has run then."""
        with Node(self._folder / "life", **self._settings()) as node:
            wait_until(lambda: node.has_run("work"), "all have run")
            assert node.quit() == 0
        ran = when_run(self._ran)
        acked = [request for request in self._before + sent if request.acked_at]
        assert ran.keys() >= {line for request in acked for line in request.lines}


def post(node: Node, level: str, lines: list[bytes]) -> Request:
    request = Request(lines, level, time.monotonic_ns())
    answer = node.post("work", lines, f"&durability={level}", timeout=30)
    assert answer.status == 202, json.dumps(answer.document)
    request.ids, request.acked_at = answer.document["ids"], time.monotonic_ns()
    return request


def kill_at_calls(life: Life, first: int, stride: int) -> int:
    """Kill it at every `stride`-th call from `first` on, until it ends before that; return
    how many times it was killed."""
    life.prepare()
    for kills, call in enumerate(range(first, CALLS_MAX, stride)):
        code, calls, sent = life.kill_at(call)
        print(f"killed at call {call}" if code == KILLED else f"it ended after {calls} calls")
        life.check(sent)
        if code == 0:
            assert calls < call
            return kills
        assert (code, calls) == (KILLED, call)
        if kills % RUN_EVERY == 0:
            life.check_runs(sent)
    raise AssertionError(f"it makes more than {CALLS_MAX} calls")


@pytest.mark.proof("T1b")
@pytest.mark.timeout(300)
def test_a_kill_at_any_call_that_changes_the_journal_or_the_store_loses_nothing(
    tmp_path: Path, proof: Proof
) -> None:
    stride = proof.size(submission=17, release=1)
    kills = kill_at_calls(Life(tmp_path), 1 + proof.seed % stride, stride)
    assert kills > 0
    proof.report(kills=kills, lost=0, twice=0)


@pytest.mark.proof("T1b")
@pytest.mark.timeout(300)
def test_a_kill_at_any_call_to_the_journal_or_to_postgresql_loses_nothing(
    tmp_path: Path, proof: Proof, postgres: Server
) -> None:
    stride = proof.size(submission=29, release=1)
    url = postgres.create_database("prepared")
    life = Life(tmp_path, url, lambda: copy_database(postgres))
    try:
        kills = kill_at_calls(life, 1 + proof.seed % stride, stride)
    finally:
        postgres.drop_database("life")
        postgres.drop_database("prepared")
    assert kills > 0
    proof.report(kills=kills, lost=0, twice=0)


def copy_database(postgres: Server) -> str:
    """Return the address of a new copy of what was prepared."""
    postgres.drop_database("life")
    postgres.terminate_backends("prepared")
    return postgres.create_database("life", template="prepared")
