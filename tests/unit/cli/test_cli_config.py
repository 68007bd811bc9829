from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimq.cli.main import run
from slimq.config import settings

SECRET = "whsec_" + "c2xpbXEtY2FuYXJ5LXNlY3JldC0xMjM0NTY3OA=="


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "local.toml").write_text(f'[http]\nsecrets = ["{SECRET}"]\n')
    return tmp_path


def test_show_prints_every_setting_and_hides_secrets(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run(["config", "show", "--config", str(folder)]) == 0
    captured = capsys.readouterr()
    rows = dict(line.split(None, 1) for line in captured.out.splitlines())
    assert rows.keys() == {"setting", *settings()}
    assert rows["http.secrets"] == "***"
    assert rows["server.port"] == "3001"
    assert SECRET not in captured.out + captured.err


def test_origin_says_file_variable_flag_or_built_in(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMQ_SERVER__HOST", "::1")
    words = ["config", "show", "--origin", "--config", str(folder), "--port", "4000", "--json"]
    assert run(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["server.port"] == {"value": 4000, "origin": "--port"}
    assert shown["server.host"] == {"value": "::1", "origin": "SLIMQ_SERVER__HOST"}
    assert shown["http.secrets"] == {"value": "***", "origin": str(folder / "local.toml")}
    assert shown["log.level"] == {"value": "info", "origin": "built in"}


def test_a_wrong_setting_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "default.toml").write_text("[server]\nprot = 1\n")
    assert run(["config", "show", "--config", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"slimq: {folder / 'default.toml'}: there is no setting 'server.prot'; "
        "did you mean server.port?\n"
    )


def test_a_configuration_folder_that_is_named_must_exist(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["config", "show", "--config", str(tmp_path / "missing")]) == 2
    assert "does not exist" in capsys.readouterr().err
