"""Real sandboxes for tests, as root and as an ordinary user.

`run_inside(user, command, cell)` starts this file as a program, which becomes the user,
launches the command, and prints what came of it. Without bubblewrap such tests are skipped,
with the reason; where CI is set they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from slimq.runner.cell import Cell, python_folders
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups

NOBODY = 65534
USERS = ("root", "nobody")
DEADLINE_S = 60.0
ESCAPE = Path(__file__).parent / "escape"


class Came(NamedTuple):
    """What came of a run: its exit code, output, and the limits that were hit."""

    code: int
    out: str
    err: str
    hit: list[str]
    memory_bytes: int | None


def need(present: bool, what: str) -> None:
    """Skip the test when something of the machine is missing; fail where CI is set."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} (CI is set, so this is not skipped)")
    pytest.skip(what)


def need_user(user: str) -> None:
    """Go on only when sandboxes of that user can be tried here."""
    need(shutil.which("bwrap") is not None, "bubblewrap is missing: apt-get install bubblewrap")
    if os.geteuid() != 0 and user == "root":
        pytest.skip("only root can try the sandbox of root")
    need(bool(python_of(user)), f"no interpreter here may be run by {user}")
    need(user == "root" or _open_to_all(ESCAPE), f"{user} cannot read this checkout")


@cache
def python_of(user: str) -> str:
    """An interpreter that the user may run."""
    for found in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if found and (user == "root" or os.geteuid() != 0 or _open_to_all(Path(found).resolve())):
            return found
    return ""


def _open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents) if part.is_dir())


def cell_of(user: str, *readable: Path, **fields: Any) -> Cell:
    folders = python_folders(Path(python_of(user)))
    fields.setdefault("client", "acme")
    return Cell(readable=(*folders, *map(str, readable)), **fields)


class NoGroups(ControlGroups):
    """A machine on which no groups can be made. `folder` is empty, and stands for /proc/self."""

    def __init__(self, folder: Path) -> None:
        (folder / "cgroup").write_text("")
        (folder / "mountinfo").write_text("")
        super().__init__(folder)


class Order(msgspec.Struct, kw_only=True):
    """What is to be launched. After `seconds` it is killed: by its limits alone where
    `by_limits` says so, else as a node does it."""

    user: str
    command: list[str]
    cell: Cell
    unsafe: bool = False
    seconds: float = DEADLINE_S
    by_limits: bool = False


def start_launcher(order: Order, **variables: str) -> subprocess.Popen[bytes]:
    """Start this file as a program that does the order. `variables` are its environment."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(order))
    process.stdin.close()
    process.stdin = None
    return process


def run_inside(
    user: str,
    command: Sequence[str],
    cell: Cell,
    *,
    variables: Mapping[str, str] | None = None,
    **more: Any,
) -> Came:
    """Run a command in a sandbox of the user to its end; `more` is of the order."""
    order = Order(user=user, command=list(command), cell=cell, **more)
    with start_launcher(order, **(variables or {})) as launcher:
        out, err = launcher.communicate(timeout=2 * DEADLINE_S)
    assert launcher.returncode == 0, err.decode()
    return Came(**json.loads(out))


def run_python(user: str, program: str, *words: str, cell: Cell | None = None, **more: Any) -> Came:
    """Run a program of Python inside, given as its text."""
    command = [python_of(user), "-I", "-c", program, *words]
    return run_inside(user, command, cell or cell_of(user), **more)


def running(mark: str) -> list[int]:
    """Return the processes of this machine that have a mark among their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def folders_of(groups: ControlGroups) -> set[Path]:
    """Return the control groups of this process that there are."""
    names = f"slimq-{os.getpid()}-*"
    return {folder for tree in groups.trees for folder in tree.folder.glob(names)}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.01)


def make_sandbox(user: str, python: str, *, unsafe: bool = False) -> Sandbox:
    """Become the user for good, and return a sandbox as a node of that user has it."""
    if user != "root" and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    return Sandbox(ControlGroups(), python=Path(python), unsafe=unsafe)


def _main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sandbox = make_sandbox(order.user, python_of(order.user), unsafe=order.unsafe)
    launch = sandbox.launch(order.command, order.cell)
    leak = os.dup(1)  # a descriptor that whoever starts the command forgot to close
    with subprocess.Popen(
        launch.argv,
        env=launch.env,
        pass_fds=(*launch.pass_fds, leak),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(leak)
        launch.close_fds()
        try:
            out, err = process.communicate(timeout=order.seconds)
        except subprocess.TimeoutExpired:
            launch.limits.kill()
            if not order.by_limits:
                process.kill()
            out, err = process.communicate(timeout=DEADLINE_S)
    came = Came(
        process.returncode,
        out.decode(errors="replace"),
        err.decode(errors="replace"),
        list(launch.limits.hit()),
        launch.limits.memory_bytes(),
    )
    launch.limits.close()
    print(json.dumps(came._asdict()))


if __name__ == "__main__":
    _main()
