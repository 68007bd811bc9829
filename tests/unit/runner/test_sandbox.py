"""What the sandbox does where it cannot hold: nothing runs, and how to mend it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_kit import NoGroups, folders_of, need_user, python_of
from slimq.runner.cell import Cell, python_folders
from slimq.runner.sandbox import NoSandbox, NotReadable, Sandbox
from slimq.runner.sandbox_probe import examine, how_to_mend
from slimq.system.cgroup import ControlGroups

CELL = Cell(client="acme")


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_well_sandbox_says_its_layers(tmp_path: Path) -> None:
    need_user("root")
    level = examine(Sandbox(ControlGroups()))
    assert level.ready
    assert level.summary.startswith("bubblewrap, seccomp, ")


def test_without_control_groups_it_says_what_is_weaker(tmp_path: Path) -> None:
    need_user("root")
    level = examine(Sandbox(NoGroups(tmp_path)))
    assert level.ready
    assert "rlimits" in level.summary
    assert "for each process" in level.lacking
    assert "nothing bounds processors" in level.lacking
    assert "Delegate=yes" in level.advice


def test_without_bubblewrap_nothing_is_launched(tmp_path: Path) -> None:
    sandbox = Sandbox(NoGroups(tmp_path), search_path=str(tmp_path))
    level = examine(sandbox)
    assert (level.ready, level.lacking) == (False, "bubblewrap is not installed")
    assert level.advice == "apt-get install bubblewrap"
    with pytest.raises(NoSandbox, match="not installed"):
        sandbox.launch(["/bin/true"], CELL)


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("echo bubblewrap 0.4.1", "bubblewrap 0.4 is too old"),
        ("exit 1", "bubblewrap 0 is too old"),
        (
            '[ "$1" = --version ] && exec echo bubblewrap 0.8.0\n'
            "echo bwrap: No permissions to create new namespace >&2; exit 1",
            "bwrap: No permissions to create new namespace",
        ),
        (
            '[ "$1" = --version ] && exec echo bubblewrap 0.8.0\nexec cat /proc/self/status',
            "a program in it still has ",
        ),
    ],
)
def test_one_that_does_not_hold_launches_nothing(tmp_path: Path, text: str, lacking: str) -> None:
    program(tmp_path / "bwrap", text)
    sandbox = Sandbox(NoGroups(tmp_path), search_path=str(tmp_path))
    level = examine(sandbox)
    assert not level.ready
    assert level.lacking.startswith(lacking)
    assert level.advice
    with pytest.raises(NoSandbox):
        sandbox.launch(["/bin/true"], CELL)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("user/max_user_namespaces", "63000", "in a container: "),
    ],
)
def test_what_forbids_namespaces_is_named(
    tmp_path: Path, name: str, value: str, advice: str
) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(f"{value}\n")
    assert how_to_mend(tmp_path).startswith(advice)


def test_an_unsafe_one_says_so(tmp_path: Path) -> None:
    level = examine(Sandbox(NoGroups(tmp_path), unsafe=True))
    assert (level.ready, level.summary) == (True, "NO SANDBOX")
    assert "without a sandbox" in level.lacking


def test_nothing_of_a_launch_shows_in_its_command() -> None:
    need_user("root")
    cell = Cell(client="acme", environment=(("TOKEN", "hush"),), readable=("/opt",))
    launch = Sandbox(ControlGroups()).launch(["/bin/echo", "hush"], cell)
    try:
        assert launch.env == {}
        assert not [word for word in launch.argv if "hush" in word or "/opt" in word]
        assert all(descriptor >= 100 for descriptor in launch.pass_fds)
    finally:
        launch.close_fds()
        launch.limits.close()


def test_a_launch_that_fails_leaves_no_descriptor_and_no_group() -> None:
    need_user("root")
    groups = ControlGroups()
    before = descriptors(), folders_of(groups)
    with pytest.raises(UnicodeEncodeError):
        Sandbox(groups).launch(["/bin/echo", "\ud800"], CELL)
    after = descriptors(), folders_of(groups)
    assert after[0] == before[0]
    assert after[1] <= before[1]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_interpreter_needs_its_virtualenv_and_its_own_prefix(tmp_path: Path) -> None:
    assert python_folders(Path("/usr/bin/python3")) == ()
    own, venv = tmp_path / "own", tmp_path / "venv"
    for folder in (own, venv):
        (folder / "bin").mkdir(parents=True)
    (own / "bin" / "python3").write_text("")
    (venv / "bin" / "python").symlink_to(own / "bin" / "python3")
    assert python_folders(venv / "bin" / "python") == (str(own),)
    (venv / "pyvenv.cfg").write_text("")
    assert python_folders(venv / "bin" / "python") == (str(own), str(venv))
    assert python_of("root")


def test_a_virtualenv_with_a_copy_of_the_interpreter_needs_what_it_was_made_of(
    tmp_path: Path,
) -> None:
    own, venv = tmp_path / "own", tmp_path / "venv"
    for folder in (own, venv):
        (folder / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("")
    (venv / "pyvenv.cfg").write_text(f"home = {own}/bin\nversion = 3.12.1\n")
    assert python_folders(venv / "bin" / "python") == (str(own), str(venv))
    (venv / "pyvenv.cfg").write_text("Home=/usr/bin\n")
    assert python_folders(venv / "bin" / "python") == (str(venv),)


def test_what_root_shows_must_be_readable_by_all_and_is_named_else(tmp_path: Path) -> None:
    need_user("root")
    hidden = tmp_path / "packages"
    hidden.mkdir(mode=0o700)
    sandbox = Sandbox(ControlGroups())
    with pytest.raises(NotReadable, match=f"{hidden} is not readable by all.*go.rX {hidden}"):
        sandbox.launch(["/bin/true"], Cell(client="acme", readable=(str(hidden),)))


def test_an_interpreter_that_only_root_may_read_is_no_sandbox(tmp_path: Path) -> None:
    need_user("root")
    prefix = tmp_path / "own"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python3").write_text("")
    prefix.chmod(0o700)
    level = examine(Sandbox(ControlGroups(), python=prefix / "bin" / "python3"))
    assert not level.ready
    assert level.lacking.startswith(f"{prefix} is not readable by all")
    assert level.advice.startswith(f"chmod -R go+rX {prefix}")
