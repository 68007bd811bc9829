"""What a context may see, use and take: the description of one sandbox, and its mounts.

/                        read-only, empty but for what follows
/usr /bin /lib ...       the system, read-only
/etc                     the files that programs need to load and to name users
/proc                    of its own processes
/dev                     null, zero, full, random, urandom
/tmp                     the only place to write: in memory, of a bounded size
readable folders         read-only, at the same paths as outside
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

TMP = "/tmp"  # noqa: S108  its own, not the machine's
USER = "function"
_ROOTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_ETC_NETWORK = ("ca-certificates", "pki", "ssl")
_DEVICES = ("full", "null", "random", "urandom", "zero")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/shm": TMP,  # noqa: S108  so that one bound counts for both
}
ENVIRONMENT = {"HOME": TMP, "TMPDIR": TMP, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All that a sandbox is made of. Contexts whose cells are equal may stand for each other.

    `readable` names files and folders that are not of the system: sources, an interpreter.
    Below those, what is to be read must be readable by all (0755, 0644); above, nothing need
    be. `descriptors` is how many are handed in: 0, 1, 2 and those of the protocol.
    """

    client: str
    readable: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    network: bool = False
    memory_bytes: int = 256 * 1024 * 1024  # of all processes, with /tmp
    reserved_bytes: int = 0  # that a program asks for and never fills: only rlimits count them
    tmp_bytes: int = 64 * 1024 * 1024
    processes: int = 64  # threads count, too
    open_files: int = 256  # of each process
    cpus: float | None = None  # processors' time in a second, for all; None: no bound
    descriptors: int = 3

    def variables(self) -> dict[str, str]:
        """The whole environment of the program."""
        return ENVIRONMENT | dict(self.environment)


def python_folders(python: Path) -> tuple[str, ...]:
    """Return what an interpreter needs to be readable: its virtualenv, and the prefix of the one
    that this was made of, by a link to it or (``--copies``) with a copy of it."""
    own, link = python.resolve().parent.parent, python.absolute().parent.parent
    folders = {own, *(Path(home).parent for home in _homes(own))}
    if (link / "pyvenv.cfg").exists():
        folders |= {link}
    return outside_system(map(str, folders))


def _homes(prefix: Path) -> Iterator[str]:
    """Yield where the interpreter lies that a virtualenv was made of."""
    config = prefix / "pyvenv.cfg"
    for line in config.read_text().splitlines() if config.exists() else ():
        name, _, value = line.partition("=")
        if name.strip().lower() == "home":
            yield value.strip()


def outside_system(folders: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that a sandbox has to be shown because the system does not hold them."""
    return tuple(sorted(folder for folder in folders if not _of_system(folder)))


def program_files(program: Path) -> tuple[str, ...]:
    """Return what a program needs to be readable: itself, and the libraries that were installed
    with it. Not all of its prefix, which is somebody's home where it lies in ``~/bin``."""
    libraries = program.parent.parent / "lib"
    needed = [str(program), *([str(libraries)] if libraries.is_dir() else [])]
    return outside_system(needed)


def mounts(readable: Iterable[str], passwd: int) -> Iterator[str]:
    """Yield the arguments of bubblewrap that make the files of a sandbox, but for /tmp."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _ROOTS:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--proc", "/proc", "--perms", "0755", "--dir", "/dev")
    for name in _DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    for path_inside, target in _LINKS.items():
        yield from ("--symlink", target, path_inside)
    yield from ("--perms", "0755", "--dir", "/etc")
    for path_outside in etc_files():
        yield from ("--ro-bind", path_outside, path_outside)
    yield from ("--ro-bind-data", str(passwd), "/etc/passwd")
    yield from _own_mounts(readable)


def _own_mounts(readable: Iterable[str]) -> Iterator[str]:
    made, bound = {Path("/"), Path(TMP)}, set[Path]()
    for folder in sorted(map(Path, readable)):  # an outer one before those inside it
        if bound & {folder, *folder.parents}:
            continue
        for parent in reversed(folder.parents):
            if parent not in made:
                made.add(parent)
                yield from ("--perms", "0755", "--dir", str(parent))
        bound.add(folder)
        yield from ("--ro-bind", str(folder), str(folder))


def etc_files() -> list[str]:
    return [f"/etc/{name}" for name in _ETC + _ETC_NETWORK if Path("/etc", name).exists()]


def readable_system() -> list[str]:
    """The parts of the system that the second layer lets a function read and execute."""
    roots = [Path("/", name) for name in _ROOTS]
    return ["/usr", *(str(path) for path in roots if path.is_dir() and not path.is_symlink())]


def _of_system(folder: str) -> bool:
    return folder == "/usr" or folder.startswith("/usr/")
