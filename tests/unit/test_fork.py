"""Processes that are copies of this one. A fresh Python forks them: it has one thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import os, signal, sys, time
from slimq.system.fork import Heard, SystemForks

def wait_for(forks, wanted):
    heard = []
    while not wanted(heard):
        heard.append(forks.wait(10))
    return heard
"""
SCENES = {
    "it ends with the code of what it did, and is buried once": """
with SystemForks() as forks:
    pid = forks.fork(lambda parent: 7)
    ended = []
    while not ended:
        forks.wait(10)
        ended = forks.bury()
    assert ended == [(pid, 7)]
    assert forks.bury() == []
""",
    "a bug in it is shown and ends it alone": """
with SystemForks() as forks:
    pid = forks.fork(lambda parent: 1 // 0)
    ended = []
    while not ended:
        forks.wait(10)
        ended = forks.bury()
    assert ended == [(pid, 1)]
""",
    "it says that it is ready, and asks for the end of all": """
with SystemForks() as forks:
    def body(parent):
        parent.tell_ready()
        parent.tell_end()
        time.sleep(60)
    pids = {forks.fork(body) for _ in range(3)}
    heard = wait_for(forks, lambda heard: {p for h in heard for p in h.ready} == pids
                     and any(h.end for h in heard))
    for pid in pids:
        forks.send(pid, signal.SIGTERM)
    gone = []
    while len(gone) < 3:
        forks.wait(10)
        gone += forks.bury()
    assert {each.code for each in gone} == {-signal.SIGTERM}
""",
    "nothing happens for as long as it was said": """
with SystemForks() as forks:
    assert forks.wait(0.01) == Heard(False, frozenset())
""",
}


@pytest.mark.parametrize("scene", SCENES)
def test_of_a_copy(scene: str) -> None:
    words = [sys.executable, "-c", START + SCENES[scene]]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ("ZeroDivisionError" in ended.stderr) == ("bug" in scene)
