"""The functions of a folder, deployed whenever they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click

from slimq.cli.caller import Caller, part
from slimq.cli.source import paths_in, read_source
from slimq.cli.uploading import upload
from slimq.core.bundle import Files, read_body, to_body
from slimq.core.entry import lang_of
from slimq.core.jobtype import EVERY_CLIENT, is_name
from slimq.core.language import LANGUAGES
from slimq.errors import NotFound, OperatorError, Refused, SlimqError, Unreachable

RETRY_S = 2.0  # after a node could not take a function now
OPTIONS = {"backoff": {"min": "100ms", "max": "2s"}}  # who mends a function waits for it

_SUFFIXES = {suffix for language in LANGUAGES.values() for suffix in language.suffixes}
_MAINS = {
    usual + suffix
    for language in LANGUAGES.values()
    for usual in language.usual
    for suffix in language.suffixes
}

Stamp = tuple[tuple[str, int, int, int], ...]  # of each file: path, changed (ns), size, inode


class Say(Protocol):
    def __call__(self, jobtype: str, text: str, *, is_bad: bool = False) -> None: ...


class FunctionFolder:
    """Knows what was deployed of a folder. `say` gets what happens, by jobtype."""

    def __init__(
        self, folder: Path, node: Caller, say: Say, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._node = node
        self._say = say
        self._now = now
        self._seen: dict[Path, Stamp] = {}
        self._again: dict[Path, float] = {}  # when to try anew what could not be taken
        self._versions: dict[str, int] = {}

    def look(self) -> None:
        """Deploy what has changed since the last look. Raises Unreachable."""
        found = dict(self._functions())
        for path in self._seen.keys() - found.keys():
            # Editors replace files: one that is gone for a moment must not take its versions.
            self._say(path.stem, f"{path.name} is gone; what was deployed goes on")
        for path, stamp in found.items():
            has_changed = self._seen.get(path) != stamp
            if has_changed or self._is_due(path):
                self._deploy(path, found, is_news=has_changed)
        self._seen = found

    def _is_due(self, path: Path) -> bool:
        return path in self._again and self._now() >= self._again[path]

    def _functions(self) -> Iterator[tuple[Path, Stamp]]:
        try:
            for path in sorted(self._folder.iterdir()):
                if path.name.startswith((".", "_")):
                    continue
                if path.is_file() and path.suffix in _SUFFIXES:
                    yield path, (_stamp(path),)
                elif path.is_dir() and any((path / main).is_file() for main in _MAINS):
                    yield path, tuple(_stamp(each) for each in paths_in(path))
        except OSError as error:  # it changed meanwhile: the next look sees more
            self._say("slimq", f"{self._folder}: {error.strerror}", is_bad=True)

    def _deploy(self, path: Path, found: Iterable[Path], *, is_news: bool) -> None:
        jobtype = _jobtype(path)
        names = [each.name for each in found if _jobtype(each) == jobtype]
        self._again.pop(path, None)
        if len(names) > 1:
            self._say(jobtype, f"{' and '.join(names)}: rename all but one", is_bad=True)
            return
        try:
            self._put(jobtype, read_source(path))
        except Unreachable:
            raise
        except (SlimqError, click.UsageError) as error:
            goes_on = self._versions.get(jobtype)
            rest = f"; version {goes_on} goes on" if goes_on else ""
            if _passes(error):
                self._again[path] = self._now() + RETRY_S
                rest += f"; it is tried again every {RETRY_S:g} s"
            if is_news or path not in self._again:
                self._say(jobtype, _reason(error) + rest, is_bad=True)

    def _put(self, jobtype: str, files: Files) -> None:
        if not is_name(jobtype):
            raise click.UsageError(f"{jobtype} can be no jobtype: rename the file")
        lang, current = lang_of(files), self._current(jobtype)
        if current is not None and current["lang"] == lang:
            if read_body(lang, current["body"]) == files:
                self._ready(jobtype, current)
                return
            options = current["options"]
        else:
            options = OPTIONS
        document = {"lang": lang, "body": to_body(files), "options": options}
        tell = lambda line: self._say(jobtype, line)  # noqa: E731
        answer = upload(self._node, jobtype, EVERY_CLIENT, document, tell)
        self._ready(jobtype, answer)

    def _ready(self, jobtype: str, handler: Any) -> None:
        self._versions[jobtype] = handler["version"]
        self._say(jobtype, f"version {handler['version']} is ready")

    def _current(self, jobtype: str) -> Any:
        try:
            return self._node.get(f"/handlers/{part(jobtype)}")
        except Refused as error:
            if error.extra.get("status") == NotFound.status:
                return None
            raise


def _jobtype(path: Path) -> str:
    return path.stem if path.suffix in _SUFFIXES else path.name


def _stamp(path: Path) -> tuple[str, int, int, int]:
    about = path.stat()
    return str(path), about.st_mtime_ns, about.st_size, about.st_ino


def _passes(error: SlimqError | click.UsageError) -> bool:
    """Return whether the node was at fault, and not the function."""
    return isinstance(error, Refused) and error.extra.get("status") == OperatorError.status


def _reason(error: SlimqError | click.UsageError) -> str:
    if isinstance(error, click.UsageError):
        return error.message
    return str(error.extra.get("detail") or error.detail).removeprefix("body: ")
