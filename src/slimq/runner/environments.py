"""The interpreters that functions run on: ours, and those that the operator named.

::

    [environments.imaging]
    python = "/srv/imaging"        a virtualenv, or an interpreter

A function says ``eid = "imaging"``, and finds what is installed there; several may say so. What is
installed for our own interpreter is not seen by functions.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from slimq.core.handler import bad_field
from slimq.core.requirements import Version
from slimq.runner.cell import outside_system, python_folders

_ASK_S = 20.0  # a cold disk, a busy machine
_OLDEST = (3, 11)  # what slimq itself is tried on
_QUESTION = (
    "import sys, sysconfig; v = sys.version_info; "
    "print(v[0], v[1], v[2], sys.implementation.cache_tag + '-' + sysconfig.get_platform()); "
    "print(sys.prefix); print(sys.base_prefix)"
)


class Interpreter(NamedTuple):
    """A Python for functions. `tag` is the same where the same packages fit."""

    path: Path
    version: Version
    tag: str
    readable: tuple[str, ...]  # what a sandbox must show of it


class BadEnvironment(OSError):
    """A named interpreter cannot be used; the operator has to mend it."""


class Environments:
    """The interpreters of a node. `named` has a path for each name."""

    def __init__(self, named: Mapping[str, str], own: Path) -> None:
        self._paths = {"": own} | {name: _python(Path(path)) for name, path in named.items()}
        self._known: dict[str, Interpreter] = {}

    def path(self, eid: str) -> Path:
        """Return the interpreter of a name, '' for our own. Raises BadHandler for one that
        this node does not have."""
        found = self._paths.get(eid)
        if found is None:
            names = ", ".join(sorted(filter(None, self._paths))) or "none"
            rule = f"this node has no environment of that name; there are: {names}"
            raise bad_field("options.eid", rule)
        return found

    def readable(self, eid: str) -> tuple[str, ...]:
        """Return what a sandbox must show of an interpreter."""
        known = self._known.get(eid)
        return known.readable if known else python_folders(self.path(eid))

    async def interpreter(self, eid: str) -> Interpreter:
        """Return what is known of an interpreter; it is asked once. Raises BadHandler,
        BadEnvironment."""
        path = self.path(eid)
        if eid not in self._known:
            loop = asyncio.get_running_loop()
            self._known[eid] = await loop.run_in_executor(None, _ask, path, eid)
        return self._known[eid]


def _python(path: Path) -> Path:
    path = path.expanduser().absolute()
    return path / "bin" / "python" if path.is_dir() else path


def _ask(path: Path, eid: str) -> Interpreter:
    command = [str(path), "-I", "-c", _QUESTION]
    try:
        done = subprocess.run(  # noqa: S603  the operator named it
            command, capture_output=True, text=True, timeout=_ASK_S, check=True, env={}
        )
        about, prefix, base = done.stdout.splitlines()
        *numbers, tag = about.split()
        version = tuple(map(int, numbers))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise BadEnvironment(f"{_words(path, eid)} does not run: {error}") from error
    if version < _OLDEST:
        raise BadEnvironment(f"{_words(path, eid)} is Python {about}; 3.11 is the oldest fit")
    folders = {*python_folders(path), *outside_system((prefix, base))}
    return Interpreter(path, version, tag, tuple(sorted(folders)))


def _words(path: Path, eid: str) -> str:
    return f"the environment {eid} ({path})" if eid else str(path)
