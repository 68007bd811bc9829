"""``slimq fn deploy``, ``diff`` and ``invoke``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from slimq.core.limits import FUNCTION_BYTES_MAX

SOURCE = "def handler(event, context): pass\n"
STORED = {"version": 2, "files": {"hash.py": 34}, "warnings": []}
FIRST = {"version": 1, "lang": "python", "body": "a\nb\n", "options": {"timeout": "5m"}}
SECOND = {"version": 2, "lang": "python", "body": "a\nc\n", "options": {"timeout": "5m"}}
SAID = {
    "version": 3,
    "lang": "python",
    "duration_ms": 12,
    "results": [
        {"status": 200, "outcome": "ok", "result": "HELLO", "error": "", "children": [{}]},
        {
            "status": 500,
            "outcome": "error",
            "result": "Traceback\n  File main.py\n",
            "error": "ValueError: \x1b[2J",
            "children": [],
        },
        {"status": 200, "outcome": "ok", "result_base64": "/w==", "error": "", "children": []},
    ],
    "output": "printed\n",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "hash.py"
    path.write_text(SOURCE)
    return path


def sent(node: Any) -> Any:
    return json.loads(node.last.body)


@pytest.mark.parametrize(
    ("name", "words", "lang"),
    [("hash.js", [], "node"), ("hash.ts", [], "deno"), ("hash.js", ["--lang", "deno"], "deno")],
)
def test_the_language_is_told_by_the_file_or_by_hand(
    slimq: Any, node: Any, tmp_path: Path, name: str, words: list[str], lang: str
) -> None:
    (tmp_path / name).write_text("exports.handler = () => 1;\n")
    node.answer("PUT", "/handlers/hash", STORED)
    slimq("fn", "deploy", "hash", str(tmp_path / name), *words)
    assert sent(node)["lang"] == lang


def test_packages_of_a_script_are_uploaded_with_it(slimq: Any, node: Any, tmp_path: Path) -> None:
    package = tmp_path / "node_modules" / "left" / "index.js"
    package.parent.mkdir(parents=True)
    package.write_text("exports.pad = 1;\n")
    (tmp_path / "main.js").write_text("exports.handler = require('left').pad;\n")
    node.answer("PUT", "/handlers/hash", STORED)
    slimq("fn", "deploy", "hash", str(tmp_path))
    assert set(sent(node)["body"]) == {"main.js", "node_modules/left/index.js"}


def test_a_file_is_uploaded_under_its_name(slimq: Any, node: Any, source: Path) -> None:
    node.answer("PUT", "/handlers/hash", STORED)
    said = slimq("fn", "deploy", "hash", str(source), "--option", "timeout=5m")
    assert sent(node) == {
        "lang": "python",
        "body": {"hash.py": SOURCE},
        "options": {"timeout": "5m"},
    }
    assert node.last.query == {"client": "*"}
    assert said.out == "hash of every client is run by version 2 (python, 1 files, 34 bytes)\n"
    assert "slimq fn invoke hash" in said.err


def test_a_folder_is_uploaded_without_what_is_hidden_or_a_cache(
    slimq: Any, node: Any, tmp_path: Path
) -> None:
    for name in ("main.py", "lib/x.py", ".git/config", "__pycache__/main.pyc", "old.pyc", ".env"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOURCE)
    (tmp_path / "src" / "logo.png").write_bytes(b"\x89\xff")
    node.answer("PUT", "/handlers/hash", STORED)
    assert slimq("fn", "deploy", "hash", str(tmp_path / "src")).code == 0
    body = {"main.py": SOURCE, "lib/x.py": SOURCE, "logo.png": {"base64": "if8="}}
    assert sent(node)["body"] == body


def test_a_zip_is_uploaded_as_the_files_in_it(slimq: Any, node: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive:
        archive.writestr("main.py", SOURCE)
        archive.writestr("lib/x.py", "")
    node.answer("PUT", "/handlers/hash", STORED)
    assert slimq("fn", "deploy", "hash", str(tmp_path / "f.zip")).code == 0
    assert sent(node)["body"] == {"main.py": SOURCE, "lib/x.py": ""}


def test_what_can_be_no_function_is_refused_before_anything_is_sent(
    slimq: Any, node: Any, tmp_path: Path
) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "main.py").symlink_to("/etc/passwd")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "main.py").write_bytes(b"#" * (FUNCTION_BYTES_MAX + 1))
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04")
    for name, words in (
        ("link", "a link"),
        ("large", "at most"),
        ("none", "no file at the top tells the language"),
        ("broken.zip", "not a zip"),
    ):
        said = slimq("fn", "deploy", "hash", str(tmp_path / name))
        assert said.code != 0
        assert words in said.err
    assert node.received == []


def test_a_refusal_of_the_node_says_where_the_function_is_wrong(
    slimq: Any, node: Any, source: Path
) -> None:
    problem = {"title": "The handler cannot be accepted", "detail": "body: hash.py, line 3: no"}
    node.answer("PUT", "/handlers/hash", problem, 422)
    said = slimq("fn", "deploy", "hash", str(source))
    assert said.code == 7
    assert "hash.py, line 3: no" in said.err


def versions(node: Any, *known: dict[str, Any]) -> None:
    node.answer("GET", "/handlers/hash/versions", {"versions": list(known)})

    def one(received: Any) -> tuple[int, Any]:
        wanted = int(received.query.get("version", known[-1]["version"]))
        return 200, next(each for each in known if each["version"] == wanted)

    node.answers["GET", "/handlers/hash"] = one


def test_what_differs_from_the_version_before_is_shown(slimq: Any, node: Any) -> None:
    versions(node, FIRST, SECOND)
    assert slimq("fn", "diff", "hash").out.splitlines() == [
        "--- main.py (version 1)",
        "+++ main.py (version 2)",
        "@@ -1,2 +1,2 @@",
        " a",
        "-b",
        "+c",
    ]
    assert slimq("fn", "diff", "hash", "--from", "2", "--to", "1", "--json").json["from"] == 2


def test_a_command_differs_by_its_words_and_options(slimq: Any, node: Any) -> None:
    old = {"version": 1, "lang": "exec", "body": ["cat"], "options": {}}
    versions(node, old, {**old, "version": 2, "body": ["tac"], "options": {"timeout": "5m"}})
    out = slimq("fn", "diff", "hash").out
    assert '-    "cat"' in out
    assert '+    "timeout": "5m"' in out


def test_versions_that_do_not_differ_or_do_not_exist_are_said_so(slimq: Any, node: Any) -> None:
    versions(node, FIRST, {**FIRST, "version": 2})
    assert slimq("fn", "diff", "hash").out == "versions 1 and 2 are the same\n"
    versions(node, FIRST)
    said = slimq("fn", "diff", "hash")
    assert (said.code, "is the first" in said.err) == (2, True)


def test_a_try_shows_each_line_the_log_and_the_time(slimq: Any, node: Any, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"hello\nx\n\xff\n")
    node.answer("POST", "/handlers/hash/invoke", SAID)
    said = slimq("fn", "invoke", "hash", str(tmp_path / "lines"), "--version", "3")
    assert node.last.body == b"hello\nx\n\xff\n"
    assert node.last.query == {"client": "main", "version": "3"}
    assert said.code == 1  # not all ended OK
    assert said.out.splitlines()[1].split() == ["1", "200", "ok", "HELLO", "1"]
    assert "File main.py" in said.out
    assert "\x1b" not in said.out
    assert "log:\nprinted" in said.out
    assert "version 3, python, 12 ms" in said.err


def test_a_try_that_ends_well_exits_with_0(slimq: Any, node: Any, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"hello\n")
    node.answer("POST", "/handlers/hash/invoke", {**SAID, "results": SAID["results"][:1]})
    assert slimq("fn", "invoke", "hash", str(tmp_path / "lines"), "--json").code == 0


JOB = {"id": "0a", "type": "main/hash", "state": "done", "attempt": 1}
RUN = {"attempt": 1, "status": 200, "node": "n", "started_at": "10", "ended_at": "11", "error": ""}


def answer_in_turn(node: Any, *pages: list[dict[str, Any]]) -> None:
    """Let each question for the jobs have the next page, the last one again and again."""
    left = list(pages)

    def answer(_: Any) -> Any:
        return 200, {"jobs": left.pop(0) if len(left) > 1 else left[0], "next": None}

    node.answers["GET", "/jobs"] = answer


def answer_runs(node: Any, id_: str, *runs: dict[str, Any]) -> None:
    node.answer("GET", f"/jobs/{id_}", {"runs": [RUN | run for run in runs]})


def test_runs_are_shown_as_they_end_with_the_log_of_a_batch_once(slimq: Any, node: Any) -> None:
    old = JOB | {"id": "00"}
    answer_in_turn(node, [old], [JOB | {"id": "0b"}, JOB, old])
    answer_runs(node, "0a", {"result": "one", "output": "printed\n"})
    answer_runs(node, "0b", {"result_base64": "/w==", "output": "printed\n", "status": 422})
    code, out, _ = slimq("fn", "tail", "hash", "--client", "main", "--count", "2")
    assert code == 0
    shown = [line.split() for line in out.splitlines()]
    assert shown == [
        ["hash", "log", "printed"],
        ["hash", "200", "0a", "one"],
        ["hash", "422", "0b", "\ufffd"],
    ]
    asked = [received for received in node.received if received.path == "/jobs"]
    assert asked[0].query == {"jobtype": "hash", "client": "main", "limit": "200"}


def test_each_run_of_a_job_is_a_line_of_json_once_and_one_under_way_is_none(
    slimq: Any, node: Any
) -> None:
    under_way = JOB | {"state": "running", "attempt": 3}
    ready = JOB | {"state": "ready", "attempt": 1}
    answer_in_turn(node, [ready], [under_way], [under_way], [JOB | {"attempt": 3}])
    runs = [{"attempt": each, "result": "", "output": ""} for each in (1, 2, 3)]
    answer_runs(node, "0a", *runs)
    code, out, _ = slimq("fn", "tail", "hash", "--count", "2", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["id"], line["type"], line["attempt"]) for line in lines] == [
        ("0a", "main/hash", 2),
        ("0a", "main/hash", 3),
    ]
