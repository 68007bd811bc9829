"""Where a function begins, in each language."""

from __future__ import annotations

import pytest

from slimq.core.entry import Entry, entry_of, lang_of
from slimq.errors import BadHandler


@pytest.mark.parametrize(
    ("lang", "files", "option", "entry"),
    [
        ("python", ["main.py"], "", Entry("main", "")),
        ("python", ["main.py", "other.py"], "work", Entry("main", "work")),
        ("python", ["hash.py", "data.txt", "lib/x.py"], "", Entry("hash", "")),
        ("python", ["a.py", "b.py"], "b.go", Entry("b", "go")),
        ("python", ["a/b/c.py"], "a.b.c.go", Entry("a.b.c", "go")),
        ("python", ["pkg/__init__.py"], "pkg.go", Entry("pkg", "go")),
        ("python", ["email.py"], "", Entry("email", "")),
        ("node", ["hash.js", "package.json", "lib/x.js"], "", Entry("hash.js", "")),
        ("node", ["main.js", "index.mjs", "other.js"], "", Entry("main.js", "")),
        ("node", ["index.mjs", "other.js"], "go", Entry("index.mjs", "go")),
        ("node", ["a.cjs", "b.js"], "b.go", Entry("b.js", "go")),
        ("node", ["src/my-jobs.v2.mjs"], "src/my-jobs.v2.go", Entry("src/my-jobs.v2.mjs", "go")),
        ("deno", ["hash.ts", "lib.js"], "hash.go", Entry("hash.ts", "go")),
        ("deno", ["main.ts", "lib.js"], "", Entry("main.ts", "")),
        ("wasm", ["hash.wasm", "hash.rs"], "", Entry("hash.wasm", "")),
    ],
)
def test_where_a_function_begins(lang: str, files: list[str], option: str, entry: Entry) -> None:
    assert entry_of(lang, dict.fromkeys(files, b""), option) == entry


@pytest.mark.parametrize(
    ("lang", "files", "option", "words"),
    [
        ("python", ["a.py", "b.py"], "", "of 2 files of lang python"),
        ("python", ["a.txt"], "", "ends with .py: write main.py"),
        ("python", ["main.py"], "other.go", "there is no file other.py"),
        ("python", ["main.py"], "a-b", "function or module.function"),
        ("python", ["main.py"], "../x.go", "function or module.function"),
        ("python", ["main.py", "queue.py"], "", "Python has a module queue of its own"),
        ("node", ["a.js", "b.mjs"], "", "of 2 files of lang node"),
        ("node", ["a.ts"], "", "ends with .js or .mjs or .cjs: write main.js"),
        ("node", ["main.js", "main.cjs"], "", "'main.js' collides with 'main.cjs'"),
        ("node", ["a.js", "a.cjs"], "a.go", "'a.js' collides with 'a.cjs'"),
        ("node", ["main.js"], "../x.go", "there is no file ../x.js"),
        ("node", ["main.js"], "a b", "function or module.function"),
        ("node", ["main.js"], "x" * 257, "function or module.function"),
        ("wasm", ["a.wasm", "b.wasm"], "", "call one main.wasm"),
        ("wasm", ["a.wasm"], "a.go", "begins at _start"),
    ],
)
def test_a_function_that_begins_nowhere_is_refused(
    lang: str, files: list[str], option: str, words: str
) -> None:
    with pytest.raises(BadHandler) as refused:
        entry_of(lang, dict.fromkeys(files, b""), option)
    assert words in refused.value.detail


@pytest.mark.parametrize(
    ("files", "lang"),
    [
        (["hash.py", "lib/x.js"], "python"),
        (["hash.mjs"], "node"),
        (["index.js", "tool.py"], "node"),
        (["main.ts", "lib.js"], "deno"),
        (["hash.wasm", "README"], "wasm"),
    ],
)
def test_files_tell_the_language(files: list[str], lang: str) -> None:
    assert lang_of(files) == lang


def test_files_that_tell_no_language_are_refused() -> None:
    with pytest.raises(BadHandler, match=r"\.py \(python\), \.js \(node\)"):
        lang_of(["README", "src/main.py"])
