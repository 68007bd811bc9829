from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimq.cli.main import run
from slimq.core.jobid import Minter
from slimq.journal.append import Append
from slimq.journal.body import Body
from slimq.journal.record import Header
from slimq.journal.writer import JournalWriter
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from slimq.system.disk import SystemDisk

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a journal of 3 records and 30 jobs."""
    folder = tmp_path / "data" / "journal"
    folder.parent.mkdir(mode=0o700)
    clock = SystemClock()
    writer = JournalWriter(folder, disk=SystemDisk(), clock=clock, chance=SystemChance())
    writer.open()
    minter = Minter("SYSIDSYS")
    for _ in range(3):
        now = clock.wall_ms()
        header = Header(minter.block(10, now).first, 10, now, type="main/echo")
        append = Append(header, Body.of(b"hello\n" * 10))
        writer.commit([append])
        assert append.error is None
    writer.close()
    return folder.parent


@pytest.fixture
def command(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: str) -> tuple[int, Any]:
        code = run([*words, "--data", str(data), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def damage(data: Path) -> None:
    """Change one byte of the first record."""
    files = (path for path in (data / "journal").iterdir() if path.is_file())
    segment = next(path for path in files if b"hello" in path.read_bytes())
    with segment.open("r+b") as file:
        os.pwrite(file.fileno(), b"J", segment.read_bytes().index(b"hello"))


def test_ls_lists_segments_and_check_counts_what_is_in_them(command: Command) -> None:
    code, listed = command("journal", "ls")
    assert code == 0
    (segment,) = listed["segments"]
    assert segment.keys() == {"number", "name", "bytes", "written_at", "first_id"}
    code, checked = command("journal", "check")
    assert (code, checked["ok"]) == (0, True)
    (found,) = checked["segments"]
    assert (found["records"], found["jobs"], found["damaged"]) == (3, 30, 0)
    assert found["first_id"] == segment["first_id"]


def test_check_ends_with_1_when_something_is_damaged(command: Command, data: Path) -> None:
    damage(data)
    code, checked = command("journal", "check")
    assert (code, checked["ok"]) == (1, False)
    (found,) = checked["segments"]
    assert (found["records"], found["jobs"], found["damaged"]) == (2, 20, 1)


def test_for_people_both_are_tables(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["journal", "ls", "--data", str(data)]) == 0
    assert capsys.readouterr().err == "next: slimq journal check\n"
    assert run(["journal", "check", "--data", str(data)]) == 0
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split()[2:4] == ["records", "jobs"]
    assert row.split()[2:4] == ["3", "30"]


def test_a_folder_without_journal_ends_with_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["journal", "check", "--data", str(tmp_path / "none")]) == 4
    assert capsys.readouterr().err.startswith("slimq: ")


def checks(document: Any) -> dict[str, str]:
    return {check["name"]: check["state"] for check in document["checks"]}


def test_the_doctor_looks_at_everything_and_finds_a_damaged_journal(
    command: Command, data: Path
) -> None:
    code, document = command("doctor", "--port", "0")
    found = checks(document)
    assert found.keys() == {
        "python",
        "sqlite",
        "config",
        "data folder",
        "disk space",
        "file system",
        "fsync",
        "journal",
        "store",
        "port",
        "open files",
        "clock",
        "sandbox",
        "functions",
    }
    assert (code, document["ok"]) == (0, True), document
    damage(data)
    code, document = command("doctor", "--port", "0")
    assert (code, document["ok"]) == (1, False)
    assert checks(document)["journal"] == "fail"


def test_the_doctor_says_what_is_wrong_with_the_configuration(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--port", "http", "--data", str(data)]) == 1
    out = capsys.readouterr().out
    assert "fail  config       --port: server.port: a whole number from 0 to 65535" in out
    assert "-> see docs/configuration.md" in out
