"""What prevents a start is one line on stderr and a documented exit code, and harms nobody."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from node_kit import ECHO, Node, bound_by_modes


class Refusal(NamedTuple):
    code: int
    line: str  # the one line on stderr


def refused_start(
    folder: Path,
    *flags: str,
    data: Path | None = None,
    prefix: Sequence[str] = (),
    **settings: str,
) -> Refusal:
    """Start a node that must refuse to start; assert that it says so on one line."""
    words = [*prefix, sys.executable, "-m", "slimq", "serve"]
    ended = subprocess.run(
        [*words, "--data", str(data or folder / "data"), "--port", "0", *flags],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.stdout == ""
    assert re.fullmatch(r"slimq: .+\n", ended.stderr), ended.stderr
    return Refusal(ended.returncode, ended.stderr)


def test_a_node_of_the_same_folder_is_refused_and_the_first_one_goes_on(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        node.put("echo", lang="exec", body=ECHO)
        before = node.add("echo", [b"before"])
        refusal = refused_start(tmp_path, data=node.data)
        assert refusal.code == 3
        assert str(node.data) in refusal.line
        assert f"process {node.process.pid}" in refusal.line
        after = node.add("echo", [b"after"])
        assert [node.done(id_)["result"] for id_ in before + after] == ["before", "after"]
        assert node.problems() == ""
        assert node.quit() == 0


def test_a_folder_is_free_as_soon_as_its_node_was_killed(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        node.kill()
        node.start()
        assert node.quit() == 0


def test_a_node_on_a_taken_port_leaves_its_folder_as_it_can_be_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for _ in range(2):
            refusal = refused_start(tmp_path, "--port", port)
            assert refusal.code == 5
            assert port in refusal.line
    with Node(tmp_path) as node:
        node.put("echo", lang="exec", body=ECHO)
        assert node.done(node.add("echo", [b"x"])[0])["result"] == "x"


@pytest.mark.parametrize("inside", ["", "data", "data/journal"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "parent"
    protected = folder / inside
    protected.mkdir(parents=True, mode=0o700)
    for path in (protected, *protected.parents):
        if path.is_relative_to(folder):
            path.chmod(0o700)
    protected.chmod(0o500)
    try:
        refusal = refused_start(tmp_path, data=folder / "data", prefix=bound_by_modes())
    finally:
        protected.chmod(0o700)
    assert refusal.code == 4
    assert str(folder / "data") in refusal.line
    with Node(folder) as node:  # as soon as it can be written
        assert node.quit() == 0


def test_a_folder_in_another_ones_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    data = closed / "data"
    closed.chmod(0)
    try:
        refusal = refused_start(tmp_path, data=data, prefix=bound_by_modes())
        doctor = slimq("doctor", "--data", str(data))
        version = slimq("db", "version", "--store", str(data / "store.db"))
    finally:
        closed.chmod(0o700)
    assert refusal.code == 4
    assert refusal.line == f"slimq: {data}/nodes cannot be read: Permission denied\n"
    assert (doctor.returncode, doctor.stderr) == (1, "")
    assert f"fail  data folder  {data}: Permission denied" in doctor.stdout
    assert (version.returncode, version.stdout) == (1, "")
    assert re.fullmatch(rf"slimq: the store {data}/store.db cannot .* denied.*\n", version.stderr)


def slimq(*words: str) -> subprocess.CompletedProcess[str]:
    command = [*bound_by_modes(), sys.executable, "-m", "slimq", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_data_folder_that_cannot_be_written_although_its_journal_can_is_named(
    tmp_path: Path,
) -> None:
    with Node(tmp_path) as node:
        assert node.quit() == 0
        node.data.chmod(0o500)
        try:
            refusal = refused_start(tmp_path, data=node.data, prefix=bound_by_modes())
        finally:
            node.data.chmod(0o700)
    assert refusal.code == 4
    assert str(node.data) in refusal.line


@pytest.mark.parametrize("place", ["data", "data/journal"])
def test_a_file_in_the_place_of_a_folder_is_named_and_left_alone(
    tmp_path: Path, place: str
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_text("mine")
    refusal = refused_start(tmp_path)
    assert refusal.code == 4
    assert str(tmp_path / "data") in refusal.line
    assert path.read_text() == "mine"


def test_a_folder_that_others_may_write_in_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "data" / "journal"
    journal.mkdir(parents=True)
    journal.chmod(0o777)
    refusal = refused_start(tmp_path)
    assert refusal.code == 4
    assert "chmod go-w" in refusal.line


@pytest.mark.parametrize("content", ["", '{"former": 7}'])
def test_a_state_file_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    with Node(tmp_path) as node:
        assert node.quit() == 0
    state = node.data / "node.json"
    state.write_text(content)
    refusal = refused_start(tmp_path, data=node.data)
    assert refusal.code in (1, 4)
    assert str(state) in refusal.line
    assert state.read_text() == content


def test_an_unknown_setting_is_named_with_its_file_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text("[server]\nprot = 3001\n")
    refusal = refused_start(tmp_path)
    assert refusal.code == 2
    assert "config/default.toml" in refusal.line
    assert "server.prot" in refusal.line
    assert not (tmp_path / "data").exists()


def test_an_unknown_variable_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    refusal = refused_start(tmp_path, SLIMQ_SERVER__PROT="1")
    assert refusal.code == 2
    assert "SLIMQ_SERVER__PROT" in refusal.line
    assert not (tmp_path / "data").exists()
