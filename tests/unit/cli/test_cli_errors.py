"""What goes wrong is one line on stderr and a documented code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import pytest

from slimq.cli.caller import Caller
from slimq.cli.main import COMMANDS, run
from slimq.cli.main import slimq as tree
from slimq.errors import Refused, Unreachable


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("words", [("status",), ("jobs", "ls"), ("quit",), ("top",)])
def test_without_a_node_the_command_says_how_to_start_one(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert run([*words, "--url", url]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"slimq: cannot reach {url} (Connection refused); "
        "is the node running? start it with: slimq serve; "
        "elsewhere? say where: --url or SLIMQ_URL\n"
    )


def test_without_an_address_the_configuration_says_where_the_node_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("SLIMQ_SERVER__HOST", "::1")
    monkeypatch.setenv("SLIMQ_SERVER__PORT", str(port))
    assert run(["status"]) == 6
    assert f"cannot reach http://[::1]:{port} " in capsys.readouterr().err
    monkeypatch.setenv("SLIMQ_SERVER__PORT", "many")
    assert run(["status"]) == 2
    assert "SLIMQ_SERVER__PORT" in capsys.readouterr().err


def test_a_host_that_does_not_exist_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--url", "http://no-such-host.invalid:1"]) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_a_node_that_does_not_answer_is_given_up(node: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        caller = Caller(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(Unreachable, match="no answer within"):
            caller.get("/status")


def test_what_is_no_http_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(Unreachable):
            Caller(f"http://127.0.0.1:{listener.getsockname()[1]}").get("/status")
        thread.join()


def test_the_words_of_a_problem_document_are_shown(slimq: Any, node: Any) -> None:
    problem = {"title": "No such thing", "status": 404, "detail": "there is no job X"}
    node.answer("GET", "/jobs/X", problem, 404)
    said = slimq("jobs", "get", "X", "--json")
    assert (said.code, said.out) == (7, "")
    assert said.err == "slimq: No such thing: there is no job X (404)\n"


@pytest.mark.parametrize("document", [b"<html>oops", [], "text", {}, None])
def test_an_error_that_is_no_problem_document_is_shown_too(
    slimq: Any, node: Any, document: Any
) -> None:
    node.answer("GET", "/status", document, 502)
    said = slimq("status")
    assert said.code == 7
    assert said.err.startswith("slimq: ")
    assert "502" in said.err


@pytest.mark.parametrize(
    "words",
    [("jobs", "ls"), ("status",), ("top",), ("quit",), ("fn", "rm", "x", "--yes"), ("add", "x")],
)
@pytest.mark.parametrize("document", [b"<html>", b"[" * 100_000, [], "text", None])
def test_what_answers_but_is_no_node_is_unreachable_and_did_nothing(
    slimq: Any, node: Any, words: tuple[str, ...], document: Any, tmp_path: Path
) -> None:
    node.otherwise = (200, document)
    (tmp_path / "line").write_bytes(b"x\n")
    if words[0] == "add":
        words = (*words, str(tmp_path / "line"))
    said = slimq(*words)
    assert (said.code, said.out) == (6, "")
    assert said.err == (
        f"slimq: what answers at {node.url} is not a slimq node; "
        "elsewhere? say where: --url or SLIMQ_URL\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("jobs", "get", "\udcff"),
        ("jobs", "ls", "--client", "\udcff"),
        ("types", "pause", "\udcff"),
        ("fn", "get", "\udcff"),
    ],
)
def test_words_that_are_not_utf8_are_left_to_the_node_to_refuse(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    said = slimq(*words)
    assert (said.code, said.err) == (7, "slimq: None (404)\n")


@pytest.mark.parametrize("key", ["a\nb", "日本", "\udcff", "\x7f"])
def test_a_key_that_no_header_can_carry_is_wrong_usage(slimq: Any, key: str) -> None:
    said = slimq("add", "echo", "--key", key, "/dev/null")
    assert said.code == 2
    assert "'--key': printable ASCII characters only" in said.err


def test_a_host_that_is_no_name_is_unreachable(slimq: Any) -> None:
    said = slimq("status", "--url", "http://a..b")
    assert (said.code, said.err.count("\n")) == (6, 1)


def test_an_error_is_one_line_whatever_the_node_says(slimq: Any, node: Any) -> None:
    node.answer("GET", "/status", {"title": "a\nslimq: b", "detail": "\x1b[2J\u2028"}, 400)
    said = slimq("status")
    assert len(said.err.splitlines()) == 1
    assert said.err.rstrip("\n").isprintable()


def test_the_members_of_a_problem_are_kept_for_who_asks(node: Any) -> None:
    node.answer("POST", "/jobs/retry", {"title": "Bad", "parameter": "all"}, 400)
    with pytest.raises(Refused) as caught:
        Caller(node.url).post("/jobs/retry")
    assert caught.value.extra["parameter"] == "all"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:3001", "ftp://h/", "http://u:canary@h/", "http://h/?canary", "", "http://"]
)
def test_a_url_that_is_no_plain_address_is_wrong_usage_and_not_repeated(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert run(["status", "--url", url]) == 2
    captured = capsys.readouterr()
    assert "write it like http://127.0.0.1:3001" in captured.err
    assert "canary" not in captured.err


def test_a_url_may_have_a_path_before_the_routes(node: Any) -> None:
    with pytest.raises(Refused):
        Caller(f"{node.url}/status/").get("/x")
    assert node.received.pop().path == "/status/x"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["jobs", "ls", "--limit", "0"], ["jobs", "get"], ["serve", "--nope"]]
)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(words) == 2
    assert "Error: " in capsys.readouterr().err


def test_help_and_version_need_no_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "slimq 0.1.0\n"


def test_every_command_and_every_option_of_it_says_what_it_is_for() -> None:
    with tree.make_context("slimq", ["status"]) as context:
        for name in COMMANDS:
            command = tree.get_command(context, name)
            assert command is not None
            for each in [command, *getattr(command, "commands", {}).values()]:
                assert each.help, each.name
                for option in each.params:
                    assert isinstance(option, click.Argument) or option.help, option.opts


def test_a_reader_that_has_enough_is_no_error(node: Any) -> None:
    jobs = [{"id": str(number), "state": "done", "status": 200} for number in range(100_000)]
    node.answer("GET", "/jobs", {"jobs": jobs, "next": None})
    process = subprocess.Popen(
        [sys.executable, "-m", "slimq", "jobs", "ls", "--url", node.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"id")
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 141


def test_a_short_command_starts_without_what_only_a_node_needs() -> None:
    code = (
        "import sys; from slimq.cli.main import run; run(['status', '--url', 'http://127.0.0.1:1']);"
        "print(sorted({'uvicorn', 'apsw', 'pycurl', 'starlette', 'asyncio'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=60
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("command", ["serve", "dev", "config show"])
def test_a_data_folder_whose_path_is_no_unicode_is_refused(tmp_path: Path, command: str) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102  its name is bytes
    code, err = run_in(folder, command)
    assert code == 2
    assert "caf\\udce9/.slimq' is no path in UTF-8: choose another folder with --data" in err


def test_where_the_current_folder_is_gone_no_data_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code, err = run_in(tmp_path / "gone", "serve", before="rmdir ../gone")
    assert code == 2
    assert err == (
        "slimq: data.path: the current folder is gone: choose another folder with --data, "
        "or change to one\n"
    )


def test_a_store_whose_path_is_longer_than_sqlite_takes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path.joinpath("x" * 250, "y" * 250)
    assert run(["serve", "--port", "0", "--data", str(folder)]) == 2
    size = len(str(folder / "store.db"))
    said = capsys.readouterr().err
    assert f"its path has {size} bytes, and SQLite takes 500: choose another folder" in said
    assert not (tmp_path / ("x" * 250)).exists()


def run_in(folder: Path | bytes, command: str, before: str = "true") -> tuple[int, str]:
    words = f'{before} && exec "$0" -m slimq {command}'
    done = subprocess.run(
        ["/bin/sh", "-c", words, sys.executable],
        cwd=folder,
        env={**os.environ, "SLIMQ_SERVER__PORT": "0", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr
