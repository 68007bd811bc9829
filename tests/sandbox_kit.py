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
from collections.abc import Sequence
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


def run_inside(
    user: str, command: Sequence[str], cell: Cell, *, unsafe: bool = False, **variables: str
) -> Came:
    """Run a command in a sandbox of the user to its end. `variables` are what the launcher
    has in its own environment."""
    order = {
        "user": user,
        "command": list(command),
        "cell": msgspec.to_builtins(cell),
        "python": python_of(user),
        "unsafe": unsafe,
    }
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | variables,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Came(**json.loads(done.stdout))


def make_sandbox(user: str, python: str, *, unsafe: bool = False) -> Sandbox:
    """Become the user for good, and return a sandbox as a node of that user has it."""
    if user != "root" and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    return Sandbox(ControlGroups(), python=Path(python), unsafe=unsafe)


def _main() -> None:
    order = json.load(sys.stdin)
    sandbox = make_sandbox(order["user"], order["python"], unsafe=order["unsafe"])
    launch = sandbox.launch(order["command"], msgspec.convert(order["cell"], Cell))
    leak = os.dup(1)  # a descriptor that whoever starts the command forgot to close
    with subprocess.Popen(
        launch.argv,
        env=launch.env,
        pass_fds=(*launch.pass_fds, leak),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        launch.close_fds()
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            launch.limits.kill()
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
