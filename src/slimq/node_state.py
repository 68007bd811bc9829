"""What is kept between boots: by one node, in its `node.json`, and by all workers behind one
port, in the data folder: whether their engines are suspended, and the secret that signs."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from slimq.core.limits import FORMER_MAX
from slimq.errors import FolderUnusable
from slimq.journal.failure import disk_full, is_full
from slimq.system.chance import Chance


class NodeState(msgspec.Struct):
    """`former` are sysids of boots that may have left jobs behind, this one at last."""

    former: list[str] = []

    def add(self, sysid: str) -> None:
        """Note a boot. Jobs of those long before the last wait for the end of their leases."""
        self.former = [*self.former, sysid][-FORMER_MAX:]


class StateFile:
    """The file: read once, and replaced as a whole whenever something changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> NodeState:
        """Raises FolderUnusable for a file that no slimq wrote, or that cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=NodeState)
        except FileNotFoundError:
            return NodeState()
        except OSError as error:
            raise FolderUnusable(f"{self._path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise FolderUnusable(
                f"{self._path} is damaged ({error}); delete it: the jobs of the last boot then "
                "run again after their lease of 30 s"
            ) from error

    def save(self, state: NodeState) -> None:
        """Replace the file, durably. Raises DiskFull, FolderUnusable."""
        with _said_with(self._path):
            self._replace(state)

    def _replace(self, state: NodeState) -> None:
        new = self._path.with_suffix(".new")
        with open(new, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        _sync_folder(self._path.parent)


class StopFlag:
    """Whether the engines of a data folder are suspended: the file `stopped` is there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stopped"

    def is_set(self, otherwise: bool = False) -> bool:
        """Return `otherwise` when the folder cannot be read now."""
        try:
            self._path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return otherwise
        return True

    def set(self, stopped: bool) -> None:
        """Make it so, durably. Raises DiskFull, FolderUnusable."""
        with _said_with(self._path):
            if stopped:
                self._path.touch(mode=0o600)
            else:
                self._path.unlink(missing_ok=True)
            _sync_folder(self._path.parent)


class Switch:
    """Whether the engine is suspended. `apply` does what follows from a change, which is durable
    before."""

    def __init__(self, flag: StopFlag, apply: Callable[[bool], None]) -> None:
        self._flag = flag
        self._apply = apply
        self.stopped = flag.is_set()

    async def set(self, stopped: bool) -> None:
        """Raises DiskFull, FolderUnusable."""
        await asyncio.to_thread(self._flag.set, stopped)  # it syncs
        self._turn(stopped)

    def look(self) -> None:
        """See whether another worker was told."""
        stopped = self._flag.is_set(otherwise=self.stopped)
        if stopped != self.stopped:
            self._turn(stopped)

    def _turn(self, stopped: bool) -> None:
        self.stopped = stopped
        self._apply(stopped)


def kept_secret(path: Path, chance: Chance) -> str:
    """Return the signing secret of a data folder, made at the first call, durably. Several
    workers may call at once: the first one's is taken, as a whole. Raises DiskFull,
    FolderUnusable."""
    with _said_with(path):
        if not path.exists():
            _make_secret(path, chance)
        return path.read_text().strip()


def _make_secret(path: Path, chance: Chance) -> None:
    secret = "whsec_" + base64.b64encode(chance.token(32)).decode()
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with open(new, "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        path.hardlink_to(new)
    new.unlink()
    _sync_folder(path.parent)


@contextmanager
def _said_with(path: Path) -> Iterator[None]:
    """Raise DiskFull or FolderUnusable for what the system says of a change."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(f"{path} cannot be written") from error
        raise FolderUnusable(f"{path} cannot be written: {error.strerror}") from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
