"""What of a machine runs functions, and what is said when it does not."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from sandbox_kit import need
from slimq.cli.checkup_functions import languages
from slimq.core.language import FUNCTIONS
from slimq.runner.programs import Missing, Program, find_programs, version_of


def interpreter(folder: Path, name: str, code: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def node_of(folder: Path, code: str) -> Program:
    interpreter(folder, "node", code)
    found = find_programs(str(folder))["node"]
    assert isinstance(found, Program)
    return found


def test_every_language_is_looked_for() -> None:
    assert tuple(find_programs()) == FUNCTIONS


def test_an_interpreter_that_is_missing_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    found = find_programs(str(tmp_path))["node"]
    assert isinstance(found, Missing)
    assert str(found).startswith("there is no node in PATH: install Node.js 20.19 or later")


def test_what_is_found_is_readable_and_gets_the_memory_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = node_of(tmp_path / "bin", "echo v20.19.0")
    assert program.readable[0] == str(tmp_path / "bin" / "node")
    assert program.words(256 << 20)[:2] == [
        str(tmp_path / "bin" / "node"),
        "--max-old-space-size=256",
    ]
    assert version_of(program) == "20.19.0"


def test_what_lies_beside_an_interpreter_is_not_shown_but_for_its_libraries(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    for name in ("bin", "lib", ".ssh"):
        (home / name).mkdir(parents=True)
    program = node_of(home / "bin", "echo v20.19.0")
    assert [path for path in program.readable if path.startswith(str(home))] == [
        str(home / "bin" / "node"),
        str(home / "lib"),
    ]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("echo v20.18.9", "is version 20.18.9"),
        ("echo v9.99.0", "is version 9.99.0"),
        ("echo nonsense", "does not say its version"),
        ("exit 3", "does not say its version"),
    ],
)
def test_an_interpreter_that_is_too_old_or_broken_is_told(
    tmp_path: Path, code: str, why: str
) -> None:
    version = version_of(node_of(tmp_path, code))
    assert isinstance(version, Missing)
    assert why in version.why
    assert "install Node.js" in version.advice


def test_the_version_of_what_runs_modules_is_not_that_of_python() -> None:
    program = find_programs()["wasm"]
    need(not isinstance(program, Missing), str(program))
    assert isinstance(program, Program)
    assert version_of(program) == importlib.metadata.version("wasmtime")


def test_the_doctor_shows_what_runs_and_warns_of_what_is_broken(tmp_path: Path) -> None:
    missing = Missing("there is no deno in PATH", "install Deno")
    old, fit = node_of(tmp_path, "echo v18.0.0"), find_programs()["python"]
    check = languages({"python": fit, "node": old, "deno": missing})
    assert check.state == "warn"
    assert "no deno (there is no deno in PATH: install Deno)" in check.detail
    assert "is version 18.0.0: install Node.js" in check.advice
    assert languages({"python": fit, "deno": missing}).state == "ok"
