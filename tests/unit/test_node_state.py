"""What is kept between boots, by one node and by all workers behind one port."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from slimq.core.limits import FORMER_MAX
from slimq.errors import FolderUnusable
from slimq.node_state import NodeState, StateFile, StopFlag, kept_secret
from slimq.system.chance import SystemChance


def test_a_suspended_folder_is_so_for_everyone_until_it_is_resumed(tmp_path: Path) -> None:
    flag, other = StopFlag(tmp_path), StopFlag(tmp_path)
    assert not other.is_set()
    flag.set(True)
    flag.set(True)
    assert other.is_set()
    flag.set(False)
    flag.set(False)
    assert not other.is_set()


def test_a_folder_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flag = StopFlag(tmp_path / "file")
    assert flag.is_set(otherwise=True)
    assert not flag.is_set(otherwise=False)
    with pytest.raises(FolderUnusable):
        flag.set(True)


def test_all_who_ask_for_the_secret_at_once_get_the_same(tmp_path: Path) -> None:
    path, secrets = tmp_path / "webhook.secret", set()
    threads = [
        threading.Thread(target=lambda: secrets.add(kept_secret(path, SystemChance())))
        for _ in range(2)
    ]
    secrets.add(kept_secret(path, SystemChance()))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["webhook.secret"]


def test_a_secret_that_another_one_made_meanwhile_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "webhook.secret"

    class SlowChance(SystemChance):
        def token(self, size: int) -> bytes:
            path.write_text("whsec_of-the-first-one\n")
            return super().token(size)

    assert kept_secret(path, SlowChance()) == "whsec_of-the-first-one"
    assert [each.name for each in tmp_path.iterdir()] == ["webhook.secret"]


def test_the_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text('{"former":["nodeAAAA"],"stopped":false}')
    assert StateFile(path).read() == NodeState(["nodeAAAA"])


def test_only_the_last_boots_of_a_node_killed_in_a_loop_are_kept() -> None:
    state = NodeState()
    for number in range(FORMER_MAX + 3):
        state.add(f"node{number:04}")
    assert (state.former[0], len(state.former)) == ("node0003", FORMER_MAX)


def test_what_cannot_be_kept_or_read_is_an_unusable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "node.json").mkdir()
    with pytest.raises(FolderUnusable, match=r"webhook\.secret cannot be written"):
        kept_secret(tmp_path / "file" / "webhook.secret", SystemChance())
    with pytest.raises(FolderUnusable, match=r"node\.json cannot be read"):
        StateFile(tmp_path / "node.json").read()
