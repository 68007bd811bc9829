"""The folder where the files of functions are, each function by the SHA-256 of its files.

::

    .slimq/functions/                      0700
      3f9a.../hash.py  lib.py              0755, 0644: a context may run as another user
      .3f9a...-x7Kq/                       being written; renamed when it is complete

A folder that is there is complete. One that no context was started from for a week is deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from slimq.core.bundle import digest
from slimq.core.limits import FUNCTION_UNUSED_S

_NEW = "."  # what the name of a folder that is not complete begins with


class Unpacked:
    """Makes folders of files. Several nodes may share it. Methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def place(self, files: Mapping[str, bytes]) -> Path:
        """Return the folder of these files, made if need be. Raises OSError."""
        name = digest(files)
        path = self._folder / name
        try:
            os.utime(path)
            return path
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        self._delete_unused()
        new = Path(mkdtemp(prefix=f"{_NEW}{name}-", dir=self._folder))
        try:
            for relative, content in files.items():
                _write(new, relative, content)
            new.chmod(0o755)
            new.rename(path)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if not path.is_dir():  # else another node was faster
                raise
        return path

    def _delete_unused(self) -> None:
        before = time.time() - FUNCTION_UNUSED_S
        for path in self._folder.iterdir():
            try:
                is_old = path.stat().st_mtime < before
            except OSError:  # another node deleted it
                continue
            if is_old:
                shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, relative: str, content: bytes) -> None:
    path = folder
    for part in relative.split("/")[:-1]:
        path /= part
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    path /= relative.rpartition("/")[2]
    with path.open("xb") as file:
        file.write(content)
    path.chmod(0o644)
