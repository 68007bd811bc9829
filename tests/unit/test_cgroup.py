"""Control groups: where we may make ours, what is written into them, and their end.

The tree of version 2 is one of plain files here: what the kernel makes of them is tried by
`tests/escape/test_limits.py`, on whatever this machine has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sandbox_kit import folders_of, need, wait_until
from slimq.system.cgroup import OWN_LEAF, Bounds, ControlGroups, find_trees

BOUNDS = Bounds(memory_bytes=1 << 20, processes=10, cpus=0.5)


class Tree2:
    """A folder that looks like the tree of version 2, with our process in a service of it."""

    def __init__(self, folder: Path, path: str = "/app.service", controllers: str = "") -> None:
        self.proc, self.root = folder / "proc", folder / "tree"
        self.own = self.root / path[1:]
        self.own.mkdir(parents=True)
        self.proc.mkdir()
        (self.proc / "cgroup").write_text(f"0::{path}\n")
        mount = f"30 25 0:26 / {self.root} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
        (self.proc / "mountinfo").write_text(mount)
        (self.own / "cgroup.controllers").write_text(controllers or "cpuset cpu io memory pids")
        (self.own / "cgroup.subtree_control").write_text("")
        (self.own / "cgroup.procs").write_text(f"{os.getpid()}\n")


def test_the_bounds_of_version_two_are_written(tmp_path: Path) -> None:
    tree = Tree2(tmp_path)
    groups = ControlGroups(tree.proc)
    assert groups.describe() == "cgroup v2: memory pids cpu"
    group = groups.make(BOUNDS)
    folder = Path(group.joins[0]).parent
    assert folder.parent == tree.own
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": str(1 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "10",
        "cpu.max": "50000 100000",
    }
    assert (tree.own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_what_was_hit_and_used_is_read(tmp_path: Path) -> None:
    group = ControlGroups(Tree2(tmp_path).proc).make(BOUNDS)
    folder = Path(group.joins[0]).parent
    assert (group.memory_bytes(), group.limits_hit()) == (None, ())
    (folder / "memory.current").write_text("4096\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
    (folder / "pids.events").write_text("max 3\n")
    assert (group.memory_bytes(), group.limits_hit()) == (4096, ("memory", "processes"))


def test_a_group_of_version_two_is_killed_in_one_step(tmp_path: Path) -> None:
    group = ControlGroups(Tree2(tmp_path).proc).make(BOUNDS)
    file = Path(group.joins[0]).parent / "cgroup.kill"
    file.write_text("")
    group.kill()
    assert file.read_text() == "1"


def test_a_group_that_holds_others_is_not_ours_to_divide(tmp_path: Path) -> None:
    """Where bounds cannot be handed down, and somebody's shell is in the group, it stays."""
    tree = Tree2(tmp_path)
    (tree.own / "cgroup.subtree_control").unlink()
    (tree.own / "cgroup.subtree_control").mkdir()  # a write fails, as it does with EBUSY
    (tree.own / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    groups = ControlGroups(tree.proc)
    assert (groups.trees, groups.describe()) == ((), "no cgroup")
    assert not (tree.own / OWN_LEAF).exists()


def test_a_node_in_its_leaf_makes_groups_beside_it(tmp_path: Path) -> None:
    tree = Tree2(tmp_path)
    leaf = tree.own / OWN_LEAF
    leaf.mkdir()
    (tree.proc / "cgroup").write_text(f"0::/app.service/{OWN_LEAF}\n")
    assert [found.folder for found in ControlGroups(tree.proc).trees] == [tree.own]


def test_a_part_of_a_tree_is_seen_through_its_mount(tmp_path: Path) -> None:
    """In a container the mount shows the tree from its own group on."""
    tree = Tree2(tmp_path, "/docker/1")
    mount = f"30 25 0:26 /docker {tree.root}/docker ro - cgroup2 cgroup2 rw\n"
    (tree.proc / "mountinfo").write_text(mount)
    assert [found.folder for found in find_trees(tree.proc)] == [tree.own]
    (tree.proc / "mountinfo").write_text(mount.replace(" /docker ", " /other "))
    assert find_trees(tree.proc) == []


def test_what_killed_nodes_left_is_taken_away(tmp_path: Path) -> None:
    tree = Tree2(tmp_path)
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    old, ours = (tree.own / f"slimq-{pid}-1" for pid in (process.pid, os.getpid()))
    for folder in (old, ours):
        folder.mkdir()
    ControlGroups(tree.proc)
    assert (old.exists(), ours.exists()) == (False, True)


def test_a_real_group_kills_what_is_in_it_and_goes() -> None:
    groups = ControlGroups()
    need(bool(groups.trees), "no control groups can be made here: run as root, or delegate them")
    group = groups.make(BOUNDS)
    script = 'for join; do echo 0 > "$join"; done; sleep 1000 & sleep 1000'
    with subprocess.Popen(["/bin/sh", "-c", script, "sh", *group.joins]) as process:
        wait_until(lambda: len(set(Path(group.joins[0]).read_text().split())) == 3)
        group.kill()
        assert process.wait() != 0
    wait_until(group.remove)
    assert not Path(group.joins[0]).parent.exists()


def test_a_bound_that_cannot_be_written_makes_no_group(tmp_path: Path) -> None:
    groups = ControlGroups()
    need("memory" in groups.bounded, "no memory group can be made here")
    before = folders_of(groups)
    with pytest.raises(OSError, match="Invalid argument"):
        groups.make(BOUNDS._replace(memory_bytes=-7))
    assert folders_of(groups) <= before
