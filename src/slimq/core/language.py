"""The languages that functions are written in: what their files are called."""

from __future__ import annotations

from typing import NamedTuple


class Language(NamedTuple):
    """`suffixes` are those of files that a function may begin in; `text` is the name of the file
    when the source is one text without a name; `usual` are the names, without suffix, of what
    a function of several files begins in."""

    lang: str
    suffixes: tuple[str, ...]
    text: str
    usual: tuple[str, ...]


PYTHON = ".py"
_SCRIPTS = (".js", ".mjs", ".cjs")
LANGUAGES = {
    each.lang: each
    for each in (
        Language("python", (PYTHON,), "main.py", ("main",)),
        Language("node", _SCRIPTS, "main.js", ("main", "index")),
        Language("deno", (".ts", *_SCRIPTS), "main.ts", ("main", "index")),
        Language("wasm", (".wasm", ".wat"), "main.wat", ("main",)),
    )
}
FUNCTIONS = tuple(LANGUAGES)
