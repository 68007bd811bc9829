"""Control groups: bounds on all processes of a context together, and their certain end.

Linux keeps groups in one tree (version 2) or in one tree for each resource (version 1), or
in both at once. `ControlGroups` finds where this process may make groups of its own, below
the group it is in itself; a `Group` is one folder in each of those trees. A process joins
by writing 0 into the file `cgroup.procs` of each; what it starts is born in the same groups.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CONTROLLERS = ("memory", "pids", "cpu")
OWN_LEAF = "slimq-node"  # version 2: where we go ourselves, so that our group may have children
_PREFIX = "slimq-"
_PERIOD_US = 100_000  # over which the processor's time is shared out; the kernel's default
_KILL_ROUNDS = 50
_FREEZER = "freezer"  # version 1: stops a group, so that it can be killed; it bounds nothing
_KILLS = 2  # the version that kills a group in one step


class Bounds(NamedTuple):
    """What all processes of a group may use together. None: as much as there is."""

    memory_bytes: int
    processes: int  # threads count, too
    cpus: float | None = None


class Tree(NamedTuple):
    """A tree of groups: its version, what it can bound, and our own group in it."""

    version: int
    controllers: tuple[str, ...]
    folder: Path


class Group:
    """One group, a folder in each tree. Nothing is in it at first."""

    def __init__(self, folders: Mapping[Path, Tree]) -> None:
        self._folders = folders

    @property
    def joins(self) -> tuple[str, ...]:
        """The files that a process writes 0 into to be in the group."""
        return tuple(str(folder / "cgroup.procs") for folder in self._folders)

    def memory_bytes(self) -> int | None:
        """What the group uses now; None when nobody counts."""
        return self._number("memory", {1: "memory.usage_in_bytes", 2: "memory.current"})

    def limits_hit(self) -> tuple[str, ...]:
        """Name the bounds that were hit: ``memory``, ``processes``."""
        hit = []
        if self._event("memory", {1: "memory.oom_control", 2: "memory.events"}, "oom_kill"):
            hit.append("memory")
        if self._event("pids", {1: "pids.events", 2: "pids.events"}, "max"):
            hit.append("processes")
        return tuple(hit)

    def kill(self) -> None:
        """Kill all that is in the group, with what it starts meanwhile."""
        for folder in self._folders:
            with suppress(OSError), (folder / "cgroup.kill").open("r+") as file:
                file.write("1")  # version 2, since Linux 5.14
                return
        self._freeze("FROZEN")  # so that nothing is started while we kill
        for _ in range(_KILL_ROUNDS):
            pids = self._pids()
            for pid in pids:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._freeze("THAWED")
            if not pids:
                return

    def remove(self) -> bool:
        """Take the group away; say whether it is gone. It stays while a process is in it."""
        for folder in self._folders:
            with suppress(FileNotFoundError):
                try:
                    folder.rmdir()
                except OSError:
                    return False
        return True

    def _freeze(self, state: str) -> None:
        for folder in self._folders:
            with suppress(OSError), (folder / "freezer.state").open("r+") as file:
                file.write(state)

    def _pids(self) -> set[int]:
        found: set[int] = set()
        for join in self.joins:
            with suppress(OSError):
                found |= {int(line) for line in Path(join).read_text().split()}
        return found - {0}

    def _file(self, controller: str, names: Mapping[int, str]) -> Path | None:
        for folder, tree in self._folders.items():
            if controller in tree.controllers:
                return folder / names[tree.version]
        return None

    def _number(self, controller: str, names: Mapping[int, str]) -> int | None:
        path = self._file(controller, names)
        try:
            return int(path.read_text()) if path else None
        except OSError:
            return None

    def _event(self, controller: str, names: Mapping[int, str], event: str) -> int:
        path = self._file(controller, names)
        with suppress(OSError):
            for line in path.read_text().splitlines() if path else ():
                name, _, count = line.partition(" ")
                if name == event:
                    return int(count)
        return 0


class ControlGroups:
    """Makes groups below our own (see the module). `proc` is where /proc/self is."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        trees = tuple(_usable(find_trees(proc)))
        if any(tree.version == _KILLS for tree in trees):
            trees = tuple(tree for tree in trees if tree.controllers != (_FREEZER,))
        self.trees = trees
        self._names = f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        self._made = 0
        self._leaving: list[Group] = []
        for tree in self.trees:
            _sweep(tree.folder)

    @property
    def bounded(self) -> frozenset[str]:
        """The controllers that bound what is in a group."""
        return frozenset(name for tree in self.trees for name in tree.controllers) - {_FREEZER}

    def describe(self) -> str:
        """Say what bounds, for people: ``cgroup v1: memory pids cpu``."""
        versions = sorted(
            {tree.version for tree in self.trees if self.bounded & {*tree.controllers}}
        )
        names = [name for name in CONTROLLERS if name in self.bounded]
        if not names:
            return "no cgroup"
        return f"cgroup v{'+v'.join(map(str, versions))}: {' '.join(names)}"

    def make(self, bounds: Bounds) -> Group:
        """Make a group; raise OSError when that fails."""
        self._leaving = [group for group in self._leaving if not group.remove()]
        self._made += 1
        name = f"{self._names}-{self._made}"
        group = Group({tree.folder / name: tree for tree in self.trees})
        try:
            for tree in self.trees:
                folder = tree.folder / name
                folder.mkdir()
                for file, value, needed in _settings(tree, bounds):
                    _write(folder / file, value, needed=needed)
        except OSError:
            group.remove()
            raise
        return group

    def discard(self, group: Group) -> None:
        """Kill all that is in a group, and take it away as soon as that has ended."""
        group.kill()
        if not group.remove():
            self._leaving.append(group)


def find_trees(proc: Path) -> list[Tree]:
    """Return our own group in every tree that is mounted here, with all it could bound."""
    wanted = {"", _FREEZER, *CONTROLLERS}  # the one of version 2 has no name
    paths = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in wanted:
                paths[name] = path
    trees: dict[Path, Tree] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        _, _, _, root, point, *_ = fields.split(" ")
        system, _, options = kind.split(" ", 2)
        for name in _of_mount(system, options, paths):
            folder = _inside(Path(point), root, paths[name])
            if folder is not None and folder.is_dir():
                old = trees.get(folder)
                version = 2 if system == "cgroup2" else 1
                offered = _offered(folder) if version == 2 else (name,)
                trees[folder] = Tree(version, offered + (old.controllers if old else ()), folder)
    return list(trees.values())


def _of_mount(system: str, options: str, paths: Mapping[str, str]) -> Iterable[str]:
    if system == "cgroup2":
        return [""] if "" in paths else []
    if system == "cgroup":
        return [name for name in options.split(",") if name and name in paths]
    return []


def _inside(point: Path, root: str, path: str) -> Path | None:
    """Return where a group is seen: a mount may show a part of its tree only."""
    try:
        return point / Path(path).relative_to(root)
    except ValueError:
        return None


def _offered(folder: Path) -> tuple[str, ...]:
    with suppress(OSError):
        names = (folder / "cgroup.controllers").read_text().split()
        return tuple(name for name in CONTROLLERS if name in names)
    return ()


def _usable(trees: Iterable[Tree]) -> Iterable[Tree]:
    """Yield the trees in which we may make groups, with what bounds there."""
    for tree in trees:
        folder = tree.folder.parent if tree.folder.name == OWN_LEAF else tree.folder
        if not os.access(folder, os.W_OK):
            continue
        if tree.version == 1:
            yield tree._replace(folder=folder)
            continue
        controllers = _offered(folder)
        if not controllers or _hand_down(folder, controllers):
            yield tree._replace(folder=folder, controllers=controllers)


def _hand_down(folder: Path, controllers: Iterable[str]) -> bool:
    """Let children of a group of version 2 be bounded. A group with children that are
    bounded holds no processes itself: those in it, ourselves, go to a leaf."""
    wanted = " ".join(f"+{name}" for name in controllers)
    if _write(folder / "cgroup.subtree_control", wanted, needed=False):
        return True
    try:
        pids = [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        if any(os.getpgid(pid) != os.getpgrp() for pid in pids):
            return False  # somebody's shell or service: not ours to move
        leaf = folder / OWN_LEAF
        leaf.mkdir(exist_ok=True)
        for pid in pids:
            _write(leaf / "cgroup.procs", str(pid), needed=True)
    except OSError:
        return False
    return _write(folder / "cgroup.subtree_control", wanted, needed=False)


def _settings(tree: Tree, bounds: Bounds) -> Iterable[tuple[str, str, bool]]:
    """Yield file, value, and whether it must be there, for what a tree bounds."""
    old = tree.version == 1
    if "memory" in tree.controllers:
        memory = str(bounds.memory_bytes)
        yield ("memory.limit_in_bytes" if old else "memory.max"), memory, True
        if old:
            yield "memory.memsw.limit_in_bytes", memory, False  # some kernels do not count swap
        else:
            yield "memory.swap.max", "0", False
            yield "memory.oom.group", "1", False
    if "pids" in tree.controllers:
        yield "pids.max", str(bounds.processes), True
    if "cpu" in tree.controllers and bounds.cpus is not None:
        quota = int(bounds.cpus * _PERIOD_US)
        if old:
            yield "cpu.cfs_quota_us", str(quota), True
        else:
            yield "cpu.max", f"{quota} {_PERIOD_US}", True


def _write(path: Path, value: str, *, needed: bool) -> bool:
    try:
        path.write_text(value)
    except OSError:
        if needed:
            raise
        return False
    return True


def _sweep(folder: Path) -> None:
    """Take away what nodes left that were killed."""
    for group in folder.glob(f"{_PREFIX}[0-9]*-*"):
        pid = group.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            with suppress(OSError):
                Group({group: Tree(2, (), folder)}).kill()
                group.rmdir()
