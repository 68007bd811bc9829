"""Packages of the distribution, where this is root on Debian or one of its kind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/slimq-install.conf")
NO_SERVICES = Path("/usr/sbin/policy-rc.d")
INSTALL_S = 900
# Also where sbin is not on PATH.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

Say = Callable[[str], None]


def can_install_packages() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_packages(say: Say, names: Sequence[str]) -> None:
    """Install packages of the distribution one by one, and start nothing.

    Debian would at once make a PostgreSQL cluster in /var/lib/postgresql and start it, and
    other services too; nobody has asked for those, so it is told not to.
    """
    if not names:
        return
    say(f"no {' and no '.join(names)} here: apt-get install")
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=2"]
    with told(NO_CLUSTER, "create_main_cluster = false\n"), told(NO_SERVICES, NO_START):
        run(say, *apt, "update")
        for name in names:
            run(say, *apt, "install", "-y", "--no-install-recommends", name)


NO_START = "#!/bin/sh\nexit 101  # an action that is forbidden: see invoke-rc.d(8)\n"


@contextmanager
def told(file: Path, text: str) -> Iterator[None]:
    """A file that is there for a while. One that is there already stays as it is."""
    if file.exists():
        yield
        return
    folders = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        for folder in folders:  # those in which a package has put something stay
            if not any(folder.iterdir()):
                folder.rmdir()


def run(say: Say, *words: str) -> bool:
    """Run a command; when it fails, say with what words."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        say(f"given up after {INSTALL_S} s: {' '.join(words)}")
        return False
    if done.returncode != 0:
        last = "\n  ".join(done.stdout.strip().splitlines()[-3:])
        say(f"this failed: {' '.join(words)}\n  {last}")
    return done.returncode == 0
