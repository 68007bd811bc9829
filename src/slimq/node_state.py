"""What a node keeps between boots, in `node.json` of its data folder."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from slimq.errors import FolderUnusable
from slimq.journal.failure import disk_full, is_full


class NodeState(msgspec.Struct):
    """`former` are sysids of earlier boots whose jobs are not taken back yet; `stopped`
    says that the engine is suspended."""

    former: list[str] = []
    stopped: bool = False


class StateFile:
    """The file: read once, and replaced as a whole whenever something changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> NodeState:
        """Raises FolderUnusable for a file that no slimq wrote."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=NodeState)
        except FileNotFoundError:
            return NodeState()
        except msgspec.DecodeError as error:
            raise FolderUnusable(
                f"{self._path} is damaged ({error}); delete it: the jobs of the last boot then "
                "run again after their lease of 30 s, and the engine is not suspended"
            ) from error

    def save(self, state: NodeState) -> None:
        """Replace the file, durably. Raises DiskFull, FolderUnusable."""
        try:
            self._replace(state)
        except OSError as error:
            if is_full(error):
                raise disk_full(f"{self._path} cannot be written") from error
            raise FolderUnusable(f"{self._path} cannot be written: {error.strerror}") from error

    def _replace(self, state: NodeState) -> None:
        new = self._path.with_suffix(".new")
        with open(new, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
