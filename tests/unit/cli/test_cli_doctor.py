from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import apsw
import pytest

from sandbox_kit import need_user
from slimq.cli import checkup
from slimq.cli.checkup import FSYNC_SAMPLES
from slimq.cli.checkup_functions import sandbox
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups
from slimq.system.clock import SystemClock


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 12), "fail"), ((3, 11, 0), "ok"), ((4, 0, 0), "ok")]
)
def test_an_old_python_is_found(version: tuple[int, ...], state: str) -> None:
    assert checkup.python(version).state == state


@pytest.mark.parametrize(
    ("version", "state"),
    [("3.40.1", "fail"), ("3.51.2", "fail"), ("3.51.3", "ok"), ("4.0.0", "ok")],
)
def test_an_sqlite_that_can_corrupt_a_wal_is_found(version: str, state: str) -> None:
    assert checkup.sqlite(version).state == state


@pytest.mark.parametrize(
    ("mode", "state"), [(0o700, "ok"), (0o750, "warn"), (0o770, "fail"), (0o707, "fail")]
)
def test_a_data_folder_that_others_can_use_is_found(tmp_path: Path, mode: int, state: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    check = checkup.folder(tmp_path / "data")
    assert check.state == state
    assert check.advice == ("" if state == "ok" else f"chmod 0700 {tmp_path / 'data'}")


def test_a_data_folder_that_is_not_there_yet_is_well_but_a_file_is_not(tmp_path: Path) -> None:
    assert checkup.folder(tmp_path / "a" / "b").state == "ok"
    (tmp_path / "file").touch()
    assert checkup.folder(tmp_path / "file").state == "fail"
    assert checkup.folder(tmp_path / "file" / "data").state == "fail"


def test_the_disk_is_measured_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    assert checkup.fsync(tmp_path / "missing").detail.endswith(f"of {FSYNC_SAMPLES}")
    assert checkup.clock(tmp_path, SystemClock()).state == "ok"
    assert checkup.free_space(tmp_path).state in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/x {place}/net nfs4 rw 0 0
tmpfs {place}/net/local tmpfs rw 0 0
//s/y {place}/my\\040share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "state"),
    [("net", "fail"), ("network", "ok"), ("net/local", "ok"), ("my share", "fail"), ("", "ok")],
)
def test_a_store_on_a_network_is_found(tmp_path: Path, folder: str, state: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    mounts = MOUNTS.format(place=tmp_path.resolve())
    assert checkup.file_system(tmp_path / folder / "store.db", mounts).state == state


def test_a_store_is_read_without_changing_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert checkup.store(path).detail.endswith("will be made at the first start")
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE t(x)")
    check = checkup.store(path)
    assert (check.state, check.detail.endswith("1 tables")) == ("ok", True)
    connection.close()
    path.write_bytes(b"no database" * 100)
    check = checkup.store(path)
    assert check.state == "fail"
    assert "not a database" in check.detail


def test_a_port_is_free_or_ours_or_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert checkup.port("127.0.0.1", port).detail == f"127.0.0.1:{port} is free"
    assert checkup.port("127.0.0.1", 0).state == "ok"
    assert answered(b"HTTP/1.1 200 OK\r\n\r\n" + b'{"state":"stopped"}').state == "ok"
    assert answered(b"HTTP/1.1 200 OK\r\n\r\n<html>").state == "fail"
    assert answered(b"SSH-2.0\r\n").state == "fail"


def answered(answer: bytes) -> checkup.Check:
    """Look at a port where a program answers this."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        check = checkup.port("127.0.0.1", listener.getsockname()[1])
        thread.join()
        return check


class SetClock:
    def __init__(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def boot_ms(self) -> int:
        return 0


def test_a_clock_that_was_never_set_or_differs_from_the_disk_is_found(tmp_path: Path) -> None:
    assert checkup.clock(tmp_path, SetClock(0)).state == "fail"
    ahead = SystemClock().wall_ms() + 3_600_000
    assert checkup.clock(tmp_path, SetClock(ahead)).state == "warn"


def test_few_open_files_are_found() -> None:
    assert checkup.descriptors(256).state == "warn"
    assert checkup.descriptors(65_536).state == "ok"


def test_the_folder_that_holds_a_path_is_found(tmp_path: Path) -> None:
    assert checkup.existing(tmp_path / "a" / "b" / "c") == tmp_path
    (tmp_path / "file").touch()
    assert checkup.existing(tmp_path / "file") == tmp_path
    assert checkup.existing(Path("missing")) == Path.cwd()


@pytest.mark.parametrize(
    ("unsafe", "detail", "advice"),
    [
        (False, "bubblewrap is not installed", "apt-get install bubblewrap"),
        (True, "NO SANDBOX", "leave --unsafe-no-sandbox out"),
    ],
)
def test_functions_that_nothing_holds_are_found(
    tmp_path: Path, unsafe: bool, detail: str, advice: str
) -> None:
    check = sandbox(Sandbox(ControlGroups(), unsafe=unsafe, search_path=str(tmp_path)))
    assert (check.state, check.advice) == ("warn", advice)
    assert detail in check.detail


def test_the_layers_of_the_sandbox_are_told() -> None:
    need_user("root" if os.geteuid() == 0 else "nobody")
    assert sandbox(Sandbox(ControlGroups())).detail.startswith("bubblewrap, seccomp, ")
