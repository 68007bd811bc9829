"""What a function needs besides Python: its requirements, read and checked.

They are said in one of three places: the option `requirements`, a file ``requirements.txt`` at the
top, or inline metadata (PEP 723) in the file that the function begins in. Whoever uploads them
may be hostile: each is a name of the index with versions and a marker, and nothing else. An
address, a path or an option of the builder would let them choose what the node reads and runs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from slimq.core.bundle import Files
from slimq.core.handler import Options, bad_field
from slimq.core.language import PYTHON
from slimq.core.limits import REQUIREMENTS_MAX

FILE = "requirements.txt"
METADATA = "inline metadata"

Version = tuple[int, ...]

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    rf"({_NAME})\s*(\[\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\])?"
    rf"\s*({_VERSION}(?:\s*,\s*{_VERSION})*)?\s*(;[\w\s.'\"<>=!~()-]+)?",
    re.ASCII,
)
_RULE = "a requirement is a name of the index, such as Pillow>=11,<12; no address, path or option"
_LENGTH_MAX = 256
_START, _END = "# /// script", "# ///"
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d{1,4}(?:\.\d{1,4}){0,2})(\.\*)?", re.ASCII)


def requirements_of(files: Files, module: str, options: Options) -> tuple[str, ...]:
    """Return what a function that begins in `module` needs, in one order and writing. Raises
    BadHandler naming the place."""
    said = dict(_places(files, module, options))
    if len(said) > 1:
        raise bad_field("body", f"say requirements in one place, not in {' and '.join(said)}")
    return next(iter(said.values()), ())


def python_needed(files: Files, module: str) -> str:
    """Return the ``requires-python`` of the inline metadata, '' without one."""
    needed = _metadata(files, module).get("requires-python", "")
    if not isinstance(needed, str) or (needed and not all(_clauses(needed))):
        raise bad_field("body", 'requires-python: versions such as ">=3.11" or ">=3.11,<3.14"')
    return needed


def fits(version: Version, needed: str) -> bool:
    """Say whether a Python, such as (3, 11, 4), is one that ``requires-python`` allows."""
    for clause in _clauses(needed):
        assert clause is not None, "checked at the deploy"
        sign, text, star = clause.groups()
        asked = tuple(map(int, text.split(".")))
        own = version[: len(asked)] if star else version
        asked = asked if star else (*asked, 0, 0)[:3]
        is_so = {
            ">=": own >= asked,
            "<=": own <= asked,
            ">": own > asked,
            "<": own < asked,
            "==": own == asked,
            "!=": own != asked,
        }
        if not is_so[sign]:
            return False
    return True


def _clauses(needed: str) -> list[re.Match[str] | None]:
    return [_CLAUSE.fullmatch(part.strip()) for part in needed.split(",")] if needed else []


def _places(files: Files, module: str, options: Options) -> Iterator[tuple[str, tuple[str, ...]]]:
    if options.requirements:
        yield "options.requirements", _checked("options.requirements", options.requirements)
    if FILE in files:
        yield FILE, _checked(FILE, _lines(_text(FILE, files[FILE])))
    inline = _metadata(files, module).get("dependencies", [])
    if not isinstance(inline, list) or not all(isinstance(each, str) for each in inline):
        raise bad_field("body", f"{METADATA}: dependencies is a list of texts")
    if inline:
        yield METADATA, _checked(METADATA, inline)


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        stated = re.sub(r"(^|\s)#.*", "", line).strip()
        if stated:
            yield stated


def _checked(place: str, written: Iterable[str]) -> tuple[str, ...]:
    found = sorted({_normal(place, each) for each in written})
    if len(found) > REQUIREMENTS_MAX:
        raise bad_field("body", f"{place}: at most {REQUIREMENTS_MAX} requirements")
    return tuple(found)


def _normal(place: str, written: str) -> str:
    match = _REQUIREMENT.fullmatch(written.strip()) if len(written) <= _LENGTH_MAX else None
    if match is None:
        raise bad_field("body", f"{place}: {ascii(written)[:80]}: {_RULE}")
    name, extras, versions, marker = (part or "" for part in match.groups())
    name = re.sub(r"[-_.]+", "-", name).lower()
    tight = re.sub(r"\s", "", extras.lower() + versions)
    return name + tight + (f" ; {marker[1:].strip()}" if marker else "")


def _metadata(files: Files, module: str) -> Mapping[str, Any]:
    """Return the ``script`` block of the file that a function begins in (PEP 723)."""
    path = module.replace(".", "/") + PYTHON
    if _START.encode() not in files.get(path, b""):
        return {}
    lines = iter(files[path].decode("utf-8", "replace").splitlines())
    if _START not in (line.rstrip() for line in lines):
        return {}
    block: list[str] = []
    for line in lines:
        if line.rstrip() == _END:
            return _toml("\n".join(block))
        if line != "#" and not line.startswith("# "):
            break
        block.append(line[2:])
    raise bad_field("body", f"{path}: {METADATA} that begins with {_START!r} ends with {_END!r}")


def _toml(text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_field("body", f"{METADATA}: not TOML: {error}") from error


def _text(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise bad_field("body", f"{path}: not UTF-8") from None
