"""docs/ARCHITECTURE.md and the code say the same: stages, layers, threads, invariants."""

from __future__ import annotations

import ast
import re
import tomllib

from doc_pages import PLACE, ROOT, block, missing_places, rows, section

PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
SOURCES = sorted((ROOT / "src" / "slimq").rglob("*.py"))
STAGE = re.compile(r"Stage (\d+), \w+: .+\.")


def stage_lines() -> list[str]:
    """Return what `grep -rhE '^\"\"\"Stage' src | sort` shows, without the quotes."""
    docstrings = [ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path in SOURCES]
    heads = [text.splitlines()[0] for text in docstrings if text]
    return sorted(head for head in heads if head.startswith("Stage"))


def test_there_are_nine_stages_each_in_one_module() -> None:
    numbers = []
    for line in stage_lines():
        match = STAGE.fullmatch(line)
        assert match is not None, line
        numbers.append(int(match[1]))
    assert numbers == list(range(1, 10))


def test_grep_finds_what_the_docstrings_say() -> None:
    found = [
        line.removeprefix('"""').removesuffix('"""')
        for path in SOURCES
        for line in path.read_text("utf-8").splitlines()
        if line.startswith('"""Stage')
    ]
    assert sorted(found) == stage_lines()


def test_the_page_shows_the_nine_stages_as_the_code_says_them() -> None:
    text = PAGE.partition("sort`\n")[2]
    assert block(text) == stage_lines()


def test_the_picture_has_every_stage_once() -> None:
    picture = "\n".join(block(section(PAGE, "The way of a job")))
    for line in stage_lines():
        number, name = re.findall(r"\d|(?<=, )\w+", line)[:2]
        assert len(re.findall(rf"\b{number} {name}\b", picture)) == 1, line
    assert picture.isascii()


def test_the_page_lists_the_layers_of_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    shown = block(section(PAGE, "Who may import whom"))
    assert shown == [layer.replace("slimq.", "") for layer in layers]


def test_every_module_is_in_a_layer() -> None:
    lines = block(section(PAGE, "Who may import whom"))
    names = {name.strip() for line in lines for name in line.split("|")}
    package = ROOT / "src" / "slimq"
    there = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
    there |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert there == names


def test_the_threads_are_those_that_the_node_starts() -> None:
    package = ROOT / "src" / "slimq"
    code = "".join((package / name).read_text("utf-8") for name in ("node.py", "connections.py"))
    started = set(re.findall(r'ThreadPoolExecutor\(1, "([\w-]+)"\)', code))
    started |= set(re.findall(r'\("(\w+)", self\._\w+\.run\)', code))
    shown = {row[0].strip("`") for row in rows(section(PAGE, "Threads"))[1:]}
    assert shown == started


def test_every_invariant_names_where_it_is_kept_and_what_proves_it() -> None:
    text = section(PAGE, "Invariants")
    items = re.split(r"^(\d+)\. ", text, flags=re.M)[1:]
    numbers, bodies = items[::2], items[1::2]
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))
    for body in bodies:
        kept, word, proved = body.partition("Proved by")
        assert word, body
        assert "Kept by" in kept
        assert any(path.startswith("src/") for path, _ in PLACE.findall(kept)), body
        assert any(path.startswith("tests/") for path, _ in PLACE.findall(proved)), body
    assert missing_places(text) == []
