"""The files of functions on disk."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from slimq.core.limits import FUNCTION_UNUSED_S
from slimq.runner.unpack import Unpacked

FILES = {"main.py": b"import lib.x\n", "lib/x.py": b"", "lib/deep/logo.png": b"\x89\xff"}


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def modes(folder: Path) -> set[tuple[str, int]]:
    return {
        ("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode))
        for path in (folder, *folder.rglob("*"))
    }


def test_the_files_of_a_function_are_in_one_folder_however_often_it_is_asked_for(
    tmp_path: Path,
) -> None:
    unpacked = Unpacked(tmp_path / "functions")
    folder = unpacked.place(FILES)
    assert content(folder) == FILES
    assert unpacked.place(dict(reversed(FILES.items()))) == folder
    assert unpacked.place({**FILES, "lib/x.py": b"1"}) != folder


def test_nobody_else_may_look_into_the_folder_of_all_and_a_context_may_into_its_own(
    tmp_path: Path,
) -> None:
    before = os.umask(0o077)
    try:
        folder = Unpacked(tmp_path / "functions").place(FILES)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert modes(folder) == {("folder", 0o755), ("file", 0o644)}


def test_a_folder_that_cannot_be_completed_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        Unpacked(tmp_path / "functions").place({"a.py": b"", "x" * 300: b""})
    assert list((tmp_path / "functions").iterdir()) == []


def test_several_that_unpack_the_same_at_a_time_get_the_same(tmp_path: Path) -> None:
    found: list[Path] = []

    def place() -> None:
        found.append(Unpacked(tmp_path / "functions").place(FILES))

    threads = [threading.Thread(target=place) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert content(found[0]) == FILES
    assert [path.name for path in (tmp_path / "functions").iterdir()] == [found[0].name]


def test_what_nobody_used_for_long_is_deleted_and_what_is_used_is_not(tmp_path: Path) -> None:
    unpacked = Unpacked(tmp_path / "functions")
    old, used = unpacked.place({"a.py": b""}), unpacked.place({"b.py": b""})
    for folder in (old, used):
        at = folder.stat().st_mtime - FUNCTION_UNUSED_S - 1
        os.utime(folder, (at, at))
    unpacked.place({"b.py": b""})
    unpacked.place({"c.py": b""})
    assert not old.exists()
    assert used.exists()
