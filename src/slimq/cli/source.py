"""The source of a function on this machine: a file, a folder, or a zip."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from slimq.core.bundle import ZIP_MARK, Files, read_body, read_zip
from slimq.core.limits import FUNCTION_BYTES_MAX, FUNCTION_FILES_MAX

_CACHES = ("__pycache__", "venv")


def read_source(path: Path) -> Files:
    """Return the files of a function. Of a folder all but what is hidden, and caches. Raises
    UsageError for what cannot be read or is too much, BadHandler for a zip that is none."""
    try:
        if path.is_dir():
            return dict(_files_in(path))
        content = path.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return read_zip(content) if content.startswith(ZIP_MARK) else {path.name: content}


def _files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    rest = FUNCTION_BYTES_MAX
    for number, path in enumerate(paths_in(folder), 1):
        if path.is_symlink():
            raise click.UsageError(f"{path}: a link; a function has files of its own")
        rest -= path.stat().st_size
        if rest < 0 or number > FUNCTION_FILES_MAX:
            most = f"{FUNCTION_FILES_MAX} files with {FUNCTION_BYTES_MAX} bytes"
            raise click.UsageError(f"{folder}: a function has at most {most}")
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def paths_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a function, in order. Raises OSError."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _CACHES or path.suffix == ".pyc":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from paths_in(path)
        else:
            yield path


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs between two versions of a handler, as a unified diff."""
    before, after = _texts(old), _texts(new)
    lines: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        lines += difflib.unified_diff(
            before.get(name, []),
            after.get(name, []),
            f"{name} (version {old['version']})",
            f"{name} (version {new['version']})",
            lineterm="",
        )
    return "\n".join(lines)


def _texts(handler: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lines of all that a version of a handler is made of."""
    about = {"lang": handler["lang"], "options": handler["options"]}
    body = handler["body"]
    if handler["lang"] in ("exec", "http"):
        about["body"] = body
        files: Files = {}
    else:
        files = read_body(handler["lang"], body)
    texts = {name: content.decode("utf-8", "backslashreplace") for name, content in files.items()}
    texts["handler"] = json.dumps(about, indent=2, sort_keys=True)
    return {name: text.splitlines() for name, text in texts.items()}
