"""What the sandbox of this machine is worth, found out by a launch of the real thing.

The kernel tells of a process what holds it (/proc/self/status): that, and not the presence
of a program or a version, is what counts. What is missing comes with its reason and with
the command that mends it.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from slimq.runner.cell import Cell
from slimq.runner.sandbox import NoSandbox, NotReadable, Sandbox
from slimq.runner.seccomp import ARCHITECTURES

BWRAP_MIN = (0, 8)  # Debian 12, Ubuntu 24.04: --size, --perms, --disable-userns
TIMEOUT_S = 20.0
INSTALL = "apt-get install bubblewrap"
_PROC_SYS = Path("/proc/sys")
_DELEGATE = "start slimq as a service with Delegate=yes, so that it may make control groups"
_HELD = {  # what /proc/self/status must say inside
    "CapInh": "0000000000000000",
    "CapPrm": "0000000000000000",
    "CapEff": "0000000000000000",
    "CapBnd": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}


class Level(NamedTuple):
    """How well functions are held. `ready`: they may run. `lacking` and `advice` name what is
    not as it should be, and how to mend it; empty when all is well."""

    ready: bool
    summary: str
    lacking: str = ""
    advice: str = ""


def examine(sandbox: Sandbox) -> Level:
    """Launch a program that shows what holds it; a sandbox that does not hold launches nothing
    any more. Blocks for about 20 ms; never raises for what is wrong with the machine."""
    level = _examine(sandbox)
    if not level.ready:
        sandbox.refuse(level.lacking)
    return level


def _examine(sandbox: Sandbox) -> Level:
    if sandbox.unsafe:
        lacking = "functions run as slimq itself, without a sandbox"
        return Level(True, "NO SANDBOX", lacking, "leave --unsafe-no-sandbox out")
    missing = _missing(sandbox)
    if missing is not None:
        return missing
    try:
        shown = _status_inside(sandbox)
    except NotReadable as error:
        return _none(error.why, error.advice)
    except (OSError, subprocess.SubprocessError) as error:
        return _none(str(error), how_to_mend(_PROC_SYS))
    wrong = [name for name, value in _HELD.items() if shown.get(name) != value]
    if wrong:
        return _none(f"a program in it still has {', '.join(wrong)}", "please report this")
    return _reached(sandbox)


def _missing(sandbox: Sandbox) -> Level | None:
    if platform.machine() not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        return _none(f"no filter of system calls for {platform.machine()}", f"use {known}")
    if not sandbox.bwrap:
        return _none("bubblewrap is not installed", INSTALL)
    version = bwrap_version(sandbox.bwrap)
    if version < BWRAP_MIN:
        return _none(f"bubblewrap {'.'.join(map(str, version))} is too old", f"{INSTALL} (>= 0.8)")
    return None


def bwrap_version(bwrap: str) -> tuple[int, ...]:
    """Return what ``bwrap --version`` says, (0,) when it says nothing that can be read."""
    try:
        said = subprocess.run(  # noqa: S603  the operator's own program
            [bwrap, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    found = re.search(r"(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def _status_inside(sandbox: Sandbox) -> Mapping[str, str]:
    launch = sandbox.launch(["/bin/cat", "/proc/self/status"], Cell(client="slimq-probe"))
    try:
        done = subprocess.run(  # noqa: S603
            launch.argv,
            env=launch.env,
            pass_fds=launch.pass_fds,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        launch.close_fds()
        launch.limits.close()
    if done.returncode != 0:
        raise NoSandbox(" ".join(done.stderr.split()) or f"bubblewrap ended with {done.returncode}")
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def how_to_mend(proc_sys: Path) -> str:
    """Say what commonly forbids user namespaces, as far as this kernel tells."""
    for name, forbidding in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("user/max_user_namespaces", "0"),
    ):
        try:
            value = (proc_sys / name).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            wanted = {"0": "1", "1": "0"}[forbidding] if name.startswith("kernel") else "10000"
            return f"sysctl -w {name.replace('/', '.')}={wanted}"
    return (
        "in a container: --security-opt seccomp=unconfined --security-opt systempaths=unconfined "
        "--cap-add SYS_ADMIN, or run slimq on the machine itself"
    )


def _reached(sandbox: Sandbox) -> Level:
    layers = ["bubblewrap", "seccomp"]
    lacking, advice = [], []
    if sandbox.landlock:
        layers.append(f"landlock v{sandbox.landlock}")
    else:
        lacking.append("no Landlock, the second layer over files")
        advice.append("Linux 5.13 or later, with landlock in the boot parameter lsm=")
    unbounded = {"memory", "pids"} - sandbox.groups.bounded
    layers.append(sandbox.groups.describe() if not unbounded else "rlimits")
    if unbounded:
        lacking.append("memory and processes are bounded for each process, not for all together")
    if "cpu" not in sandbox.groups.bounded:
        lacking.append("nothing bounds processors: the option cpus has no effect")
    if unbounded or "cpu" not in sandbox.groups.bounded:
        advice.append(_DELEGATE)
    layers.append("a user for each client" if sandbox.as_root else "user namespace")
    return Level(True, ", ".join(layers), "; ".join(lacking), "; ".join(advice))


def _none(lacking: str, advice: str) -> Level:
    return Level(False, "none: functions do not run", lacking, advice)
