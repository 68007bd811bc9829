"""Where a function begins: in which of its files, and with what in it.

The option ``handler`` says it, in the way of the language: ``module.function`` in Python, where a
module in a folder is ``folder.module``; ``path/file.function`` in JavaScript. A module of
WebAssembly begins at its ``_start``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from slimq.core.bundle import shown
from slimq.core.handler import bad_field
from slimq.core.language import LANGUAGES, PYTHON, Language

_ENTRY_MAX = 256
_USUAL = {name for language in LANGUAGES.values() for name in language.usual}
_PYTHON_ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SCRIPT_ENTRY = re.compile(r"([\w$./-]+\.)?[^\W\d][\w$]*")


class Entry(NamedTuple):
    """`module` is a module of Python, else the path of a file; `name` is what is called in it, ''
    when one of the usual names is."""

    module: str
    name: str


def entry_of(lang: str, files: Mapping[str, bytes], handler: str) -> Entry:
    """Return where a function begins; `handler` is its option, '' for the usual names. Raises
    BadHandler."""
    language = LANGUAGES[lang]
    if lang == "wasm":
        if handler:
            raise bad_field("options.handler", "not for lang wasm: a module begins at _start")
        return Entry(_only_file(language, files), "")
    pattern = _PYTHON_ENTRY if lang == "python" else _SCRIPT_ENTRY
    if handler and (len(handler) > _ENTRY_MAX or not pattern.fullmatch(handler)):
        raise bad_field("options.handler", "function or module.function, such as main.handler")
    module, _, name = handler.rpartition(".")
    if lang != "python":
        return Entry(_script(language, files, module), name)
    module = module or _only_file(language, files).removesuffix(PYTHON)
    if not _paths_of(module) & files.keys():
        raise _no_file(f"{module.replace('.', '/')}{PYTHON}")
    _check_hidden(files, module)
    return Entry(module, name)


def lang_of(files: Iterable[str]) -> str:
    """Return the language that files tell: that of a file of a usual name at the top, else of any
    there; the first one of several. Raises BadHandler when it is none."""
    top = [path for path in files if "/" not in path]
    named = [path for path in top if path.rpartition(".")[0] in _USUAL]
    for language in LANGUAGES.values():
        if any(path.endswith(language.suffixes) for path in named or top):
            return language.lang
    known = ", ".join(f"{each.suffixes[0]} ({each.lang})" for each in LANGUAGES.values())
    raise bad_field("body", f"no file at the top tells the language: {known}")


def _only_file(language: Language, files: Iterable[str]) -> str:
    """Return the file of the usual name at the top, or the only one of the language there."""
    top = [path for path in files if "/" not in path and path.endswith(language.suffixes)]
    for usual in language.usual:
        named = [path for path in top if path.rpartition(".")[0] == usual]
        if named:
            return _one(named)
    if len(top) == 1:
        return top[0]
    main = language.usual[0] + language.suffixes[0]
    if not top:
        names = " or ".join(language.suffixes)
        raise bad_field("body", f"no file at the top ends with {names}: write {main}")
    rule = f"of {len(top)} files of lang {language.lang} at the top, call one {main}"
    if language.lang != "wasm":
        rule += ', or say which: "module.function"'
    raise bad_field("options.handler", rule)


def _one(named: list[str]) -> str:
    if len(named) > 1:
        raise bad_field("body", f"{shown(named[0])} collides with {shown(named[1])}")
    return named[0]


def _script(language: Language, files: Mapping[str, bytes], module: str) -> str:
    if not module:
        return _only_file(language, files)
    named = [module + suffix for suffix in language.suffixes if module + suffix in files]
    if not named:
        raise _no_file(f"{module}{language.suffixes[0]}")
    return _one(named)


def _no_file(path: str) -> Exception:
    return bad_field("options.handler", f"there is no file {path}")


def _paths_of(module: str) -> set[str]:
    path = module.replace(".", "/")
    return {path + PYTHON, f"{path}/__init__{PYTHON}"}


def _check_hidden(files: Iterable[str], entry: str) -> None:
    """Python's own modules are found first. Where a function begins is found all the same."""
    for path in files:
        name = path.partition("/")[0].removesuffix(PYTHON)
        is_module = path.endswith(PYTHON) and name != entry
        if is_module and name in sys.stdlib_module_names:
            rule = f"{shown(path)} would never be imported: Python has a module {name} of its own"
            raise bad_field("body", rule)
