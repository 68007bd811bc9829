"""The sandbox of functions: the command that runs a program with nothing but its cell.

    /bin/sh     joins the control group, so that all that follows is born in it
    bwrap       new namespaces, mounts, no capabilities, the filter of system calls
    confine.py  limits, an unprivileged user, Landlock; becomes the program

As root, bubblewrap makes the mounts with root's own rights and the last step becomes a user
that the machine has no name for, another one for each client. As an ordinary user, all of
it happens in a user namespace, and no further one can be made inside.

Nothing of this can be seen from the outside but ``bwrap --args N``, and inside there is no
way to tell the words that were used: they are in memory files, closed before the program
starts. Whoever starts the command passes on the descriptors 0, 1, 2 and those of the
protocol, and `pass_fds` under their own numbers; nothing else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from slimq.runner import egress, seccomp
from slimq.runner.cell import (
    TMP,
    USER,
    Cell,
    etc_files,
    mounts,
    python_folders,
    readable_system,
)
from slimq.runner.egress import Egress, Gate
from slimq.system.cgroup import Bounds, ControlGroups, Group
from slimq.system.landlock import version as landlock_version

_CONFINE = Path(__file__).parent / "host" / "confine.py"
_FIRST_FD = 100  # above those of any protocol
_NOBODY = 65534
_UIDS = range(2_000_000_000, 2_100_000_000)  # that no distribution gives out, nor systemd
_OWN_PROCESSES = 3  # of the launch itself, in the same group
_ENTER = stat.S_IROTH | stat.S_IXOTH
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'


class NoSandbox(OSError):
    """This machine has no sandbox to offer: functions do not run, whatever they would do."""


class NotReadable(NoSandbox):
    """What a sandbox must show is hidden from the users that functions run as."""

    def __init__(self, path: str) -> None:
        self.why = f"{path} is not readable by all, and functions run as users of their own"
        self.advice = f"chmod -R go+rX {path}, or install it again with umask 022"
        super().__init__(f"{self.why}: {self.advice}")


class Limits:
    """What bounds the processes of one launch, and ends them."""

    def __init__(self, groups: ControlGroups) -> None:
        self._groups = groups
        self.group: Group | None = None
        self.gate: Gate | None = None
        self.folder = ""  # of an unsafe launch, instead of /tmp

    def kill(self) -> None:
        """Kill all that the group holds. Without a group, and always besides: kill the
        process that was started; the kernel then kills all others in its namespace."""
        if self.group is not None:
            self.group.kill()

    def memory_bytes(self) -> int | None:
        """What all processes use now, with their files in /tmp; None when nobody counts."""
        return self.group.memory_bytes() if self.group is not None else None

    def hit(self) -> tuple[str, ...]:
        """Name the limits that were hit, of ``memory`` and ``processes``."""
        return self.group.limits_hit() if self.group is not None else ()

    def close(self) -> None:
        """Kill what is left, and give everything back. Once, after the end of the process."""
        if self.group is not None:
            self._groups.discard(self.group)
            self.group = None
        if self.gate is not None:
            self.gate.close()
            self.gate = None
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = ""


class Launch:
    """A command to be started once. `env` is all of its environment; inherited are its own
    low descriptors and `pass_fds`. The thread that starts it must outlive it: the kernel kills
    it at the end of that thread."""

    def __init__(self, argv: Sequence[str], pass_fds: Sequence[int], limits: Limits) -> None:
        self.argv = list(argv)
        self.env: dict[str, str] = {}
        self.pass_fds = tuple(pass_fds)
        self.limits = limits

    def close_fds(self) -> None:
        """Close our copies, after the start, or instead of it."""
        for descriptor in self.pass_fds:
            os.close(descriptor)
        self.pass_fds = ()


class Sandbox:
    """Makes launches. `python` is the interpreter that takes the last step into the sandbox
    (ours), `search_path` where bubblewrap is looked for (PATH), `way_out` the one for cells
    that ask for the network (there is none); `unsafe` runs functions without all that, and then
    only the limits hold."""

    def __init__(
        self,
        groups: ControlGroups,
        *,
        unsafe: bool = False,
        python: Path | None = None,
        search_path: str | None = None,
        way_out: Egress | None = None,
    ) -> None:
        self.groups = groups
        self._way_out = way_out
        self.unsafe = unsafe
        self.bwrap = shutil.which("bwrap", path=search_path) or ""
        self.landlock = landlock_version()
        self._refusal = "" if self.bwrap or unsafe else "bubblewrap is not installed"
        self.as_root = os.geteuid() == 0
        self._python = (python or Path(sys.executable)).resolve()
        self._launcher = (str(_CONFINE), *python_folders(self._python))

    def refuse(self, why: str) -> None:
        """Launch nothing any more. For who found out that the sandbox does not hold."""
        self._refusal = why

    def launch(self, command: Sequence[str], cell: Cell) -> Launch:
        """Return the command that runs `command` (a path and its arguments) in a cell.
        Raises NoSandbox when there can be none, NotReadable, and OSError when the machine is
        short of something."""
        if self._refusal:
            raise NoSandbox(self._refusal)
        if self.as_root and not self.unsafe:
            _check_readable((str(_CONFINE.parent), *self._launcher, *cell.readable))
        limits, descriptors = Limits(self.groups), list[int]()
        try:
            return self._launch(command, cell, limits, descriptors)
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            limits.close()
            raise

    def _launch(
        self, command: Sequence[str], cell: Cell, limits: Limits, descriptors: list[int]
    ) -> Launch:
        """As `launch`; what is made for it is in `limits` and `descriptors`, whatever happens."""
        limits.group = self._group(cell)
        words = self._rlimits(cell)
        if self.unsafe:
            limits.folder = tempfile.mkdtemp(prefix="slimq-function-")
        elif cell.network and self._way_out is not None:
            limits.gate = self._way_out.open()
            descriptors.append(_above(limits.gate.theirs))
            words.append(f"egress={descriptors[0]}:{egress.PORT}")
            words += [f"env={name}={value}" for name, value in egress.VARIABLES.items()]
        words += self._words(command, cell, limits.folder)
        descriptors.append(_memory_file("words", _joined(words)))
        argv = [str(self._python), "-I", "-S", str(_CONFINE), str(descriptors[-1])]
        if not self.unsafe:
            argv = self._boxed(argv, cell, descriptors)
        joins = limits.group.joins if limits.group is not None else ()
        prefix = ["/bin/sh", "-c", _JOIN, "sh", *joins, "--"] if joins else []
        return Launch([*prefix, *argv], descriptors, limits)

    def _group(self, cell: Cell) -> Group | None:
        if not self.groups.trees:
            return None
        bounds = Bounds(cell.memory_bytes, cell.processes + _OWN_PROCESSES, cell.cpus)
        return self.groups.make(bounds)

    def _boxed(self, argv: list[str], cell: Cell, descriptors: list[int]) -> list[str]:
        """Return bubblewrap's command around another. Its memory files join the descriptors."""
        passwd = f"{USER}:x:{self._uid(cell)}:{self._uid(cell)}::{TMP}:/bin/sh\n"
        for name, content in (("passwd", passwd.encode()), ("seccomp", seccomp.program())):
            descriptors.append(_memory_file(name, content))
        passwd_fd, seccomp_fd = descriptors[-2:]
        arguments = [*self._isolation(cell), "--seccomp", str(seccomp_fd)]
        arguments += self._files(cell, passwd_fd)
        descriptors.append(_memory_file("args", _joined(arguments)))
        return [self.bwrap, "--args", str(descriptors[-1]), *argv]

    def _isolation(self, cell: Cell) -> Iterator[str]:
        yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup")
        yield from ("--unshare-net", "--hostname", "slimq", "--clearenv")
        yield from ("--new-session", "--die-with-parent", "--cap-drop", "ALL")
        if self.as_root:
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                yield from ("--cap-add", capability)
        else:
            uid = str(self._uid(cell))
            yield from ("--unshare-user", "--uid", uid, "--gid", uid, "--disable-userns")

    def _files(self, cell: Cell, passwd: int) -> Iterator[str]:
        yield from ("--perms", "1777", "--size", str(cell.tmp_bytes), "--tmpfs", TMP)
        yield from mounts((*self._launcher, *cell.readable), passwd)
        yield from ("--remount-ro", "/", "--chdir", TMP)

    def _words(self, command: Sequence[str], cell: Cell, folder: str) -> list[str]:
        """Return most words of `confine.py`."""
        words = [f"keep={cell.descriptors}"]
        variables = cell.variables()
        if self.unsafe:
            variables |= {name: folder for name, value in variables.items() if value == TMP}
        else:
            if self.as_root:
                words.append(f"uid={self._uid(cell)}")
            if self.landlock:
                words += self._landlock(cell)
        words.append(f"folder={folder or TMP}")
        words += [f"env={name}={value}" for name, value in variables.items()]
        return [*words, *(f"run={word}" for word in command)]

    def _rlimits(self, cell: Cell) -> list[str]:
        words = ["limit=RLIMIT_CORE:0", f"limit=RLIMIT_NOFILE:{cell.open_files}"]
        if "pids" not in self.groups.bounded and not self.unsafe:
            words.append(f"limit=RLIMIT_NPROC:{cell.processes}")
        if "memory" not in self.groups.bounded:
            words.append(f"limit=RLIMIT_DATA:{cell.memory_bytes + cell.reserved_bytes}")
        return words

    def _landlock(self, cell: Cell) -> Iterator[str]:
        yield "landlock=1"
        if cell.network:
            yield "tcp=1"
        for path in (*readable_system(), *self._launcher, *cell.readable):
            yield f"read={path}"
        for path in ("/etc/passwd", "/proc", *etc_files()):
            yield f"look={path}"
        yield from (f"write={TMP}", "device=/dev")

    def _uid(self, cell: Cell) -> int:
        """As root, a user for each client; else, and where there are few users, nobody."""
        own = _UIDS[zlib.crc32(cell.client.encode()) % len(_UIDS)]
        return own if self.as_root and _has_user(own) else _NOBODY


def _check_readable(paths: Iterable[str]) -> None:
    """As root a function is another user than the owner of what it needs. Raises NotReadable,
    instead of what an interpreter says that does not find its library."""
    for path in filter(os.path.exists, paths):  # bubblewrap says what is not there
        mode = Path(path).stat().st_mode
        wanted = _ENTER if stat.S_ISDIR(mode) else stat.S_IROTH
        if mode & wanted != wanted:
            raise NotReadable(path)


def _has_user(uid: int, path: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether a user exists in our own namespace; in a container there may be few."""
    for line in path.read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False


def _joined(words: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _memory_file(name: str, content: bytes) -> int:
    """Return a descriptor, above those of protocols, of a file in memory at its start."""
    low = os.memfd_create(f"slimq-{name}", os.MFD_CLOEXEC)
    try:
        os.pwrite(low, content, 0)
    except BaseException:
        os.close(low)
        raise
    return _above(low)


def _above(low: int) -> int:
    """Move a descriptor above those of protocols."""
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    finally:
        os.close(low)
