"""A SQLite store whose file is in trouble says so, changes nothing, and heals by itself."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlite_kit import TYPE, Opener, claim, finish, ingest, raw, work

from slimq.errors import StartError, StoreTooNew, StoreUnavailable
from slimq.store.base import Cursor, JobFilter, NewJobs
from slimq.store.sqlite_file import check_library
from slimq.store.sqlite_turn import POLL_MS, Turnstile
from slimq.system.clock import SystemClock


def test_the_file_is_made_when_it_is_first_needed_and_is_its_owners_alone(opener: Opener):
    store = opener.open()
    assert not opener.path.exists()
    opener.add(store)
    for path in opener.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_committed_is_there_after_a_restart(opener: Opener):
    store = opener.open()
    ids = opener.add(store, count=3)
    store.close()
    found = opener.open().jobs(JobFilter(), before="", limit=9)
    assert [view.id for view in found] == ids[::-1]


def test_a_closed_store_opens_again(opener: Opener):
    store = opener.open()
    opener.add(store)
    store.close()
    store.close()
    assert store.totals().waiting == 1


def test_a_missing_folder_is_named_and_the_store_works_once_it_is_there(tmp_path: Path):
    opener = Opener(tmp_path / "later" / "store.db")
    store = opener.open()
    for ask in (store.now, store.totals, store.control_version, lambda: opener.add(store)):
        with pytest.raises(StoreUnavailable, match="No such file or directory"):
            ask()
    opener.path.parent.mkdir()
    opener.add(store)
    assert store.totals().waiting == 1
    opener.close()


def test_a_file_that_went_away_is_not_replaced_and_is_used_again_when_it_is_back(opener: Opener):
    store = opener.open()
    opener.add(store)
    elsewhere = opener.path.with_name("moved")
    opener.path.rename(elsewhere)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="its file is gone"):
            opener.add(store)
    assert not opener.path.exists()
    elsewhere.rename(opener.path)
    opener.add(store)
    assert store.totals().waiting == 2


def test_a_file_that_was_replaced_is_the_one_that_is_used(opener: Opener):
    store = opener.open()
    opener.add(store, count=2)
    store.close()
    shutil.copy(opener.path, opener.path.with_name("backup"))
    opener.add(store, count=5)
    store.barrier()
    opener.path.with_name("backup").replace(opener.path)
    assert store.totals().waiting == 2
    opener.add(store)
    assert opener.open().totals().waiting == 3


def test_a_locked_file_is_unavailable_for_writes_until_it_is_free(opener: Opener):
    store = opener.open()
    opener.add(store)
    with raw(opener.path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="holds its lock"):
            opener.add(store)
        assert store.totals().waiting == 1
        assert store.barrier() is False
        other.execute("ROLLBACK")
        opener.add(store)
    assert store.totals().waiting == 2


def test_a_writer_waits_for_another_writer(opener: Opener):
    store = opener.open(busy_ms=20_000)
    opener.add(store)
    with raw(opener.path) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=opener.add, args=(store,))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        other.execute("COMMIT")
        thread.join()
    assert store.totals().waiting == 2


def test_nobody_overtakes_a_writer_that_waits(opener: Opener):
    stores = [opener.open(busy_ms=20_000) for _ in range(3)]
    ids = [opener.minter.block(1, number).first for number in range(3)]
    for store in stores:
        store.now()

    def add(number: int) -> None:
        new = NewJobs(TYPE, 0, [ids[number]], [b""])
        stores[number].ingest(f"journal{number}", Cursor(), Cursor(0, 1), [new])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    turnstile = Turnstile(opener.path.with_name("store.db-turn"))
    with raw(opener.path) as other:
        other.execute("BEGIN IMMEDIATE")
        threads[0].start()
        while turnstile.enter(POLL_MS):
            turnstile.leave()
        for thread in threads[1:]:
            thread.start()
        other.execute("COMMIT")
        for thread in threads:
            thread.join()
        assert other.execute("SELECT id FROM job ORDER BY seq LIMIT 1").get == ids[0]
        assert other.execute("SELECT count(*) FROM job").get == 3
    turnstile.close()


def test_the_turnstile_is_for_one_at_a_time_and_does_not_wait_for_ever(tmp_path: Path):
    first, second = (Turnstile(tmp_path / "turn") for _ in range(2))
    assert first.enter(1)
    assert not second.enter(3)
    first.leave()
    assert second.enter(1)
    second.close()
    assert first.enter(1)
    first.close()


def test_a_writer_that_is_stopped_in_the_turnstile_holds_up_others_once(opener: Opener):
    stopped = Turnstile(opener.path.with_name("store.db-turn"))
    store = opener.open(busy_ms=200)
    opener.add(store)
    assert stopped.enter(POLL_MS)
    begun = time.monotonic()
    for _ in range(20):
        opener.add(store)
    assert store.barrier() is True
    assert time.monotonic() - begun < 10 * 0.2
    stopped.leave()
    opener.add(store)
    assert store.totals().waiting == 22
    stopped.close()


def test_a_reader_hinders_no_writer_but_the_barrier(opener: Opener):
    store = opener.open()
    opener.add(store)
    with raw(opener.path) as reader:
        reader.execute("BEGIN; SELECT count(*) FROM job")
        opener.add(store)
        finish(store, claim(store))
        assert store.barrier() is False
        reader.execute("ROLLBACK")
        assert store.barrier() is True


def test_the_barrier_brings_all_into_the_file(opener: Opener):
    store = opener.open()
    opener.add(store, count=50)
    assert store.barrier() is True
    alone = opener.path.with_name("copy.db")
    shutil.copy(opener.path, alone)
    with raw(alone) as db:
        assert db.execute("SELECT count(*) FROM job").get == 50
        assert db.pragma("integrity_check") == "ok"


def test_a_file_that_is_no_database_is_refused_and_left_alone(opener: Opener):
    content = b"this is not a database " * 100
    opener.path.write_bytes(content)
    store = opener.open()
    with pytest.raises(StoreUnavailable, match="not a SQLite database"):
        work(store)
    assert opener.path.read_bytes() == content
    opener.path.unlink()
    work(store)


def test_a_database_of_another_program_is_refused_and_left_alone(opener: Opener):
    with raw(opener.path) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = opener.path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another program"):
        work(opener.open())
    assert opener.path.read_bytes() == before


def test_a_folder_in_place_of_the_file_is_unavailable(opener: Opener):
    opener.path.mkdir()
    store = opener.open()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        work(store)
    opener.path.rmdir()
    work(store)


def test_a_damaged_file_is_unavailable_until_a_good_one_is_put_back(opener: Opener):
    store = opener.open()
    opener.add(store, count=500)
    store.close()
    good = opener.path.read_bytes()
    opener.path.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="damaged"):
            claim(store)
    opener.path.write_bytes(good)
    assert len(claim(store)) == 100


def test_a_newer_schema_is_refused_and_left_alone(opener: Opener):
    store = opener.open()
    opener.add(store)
    with raw(opener.path) as db:
        made = db.pragma("user_version")
        db.pragma("user_version", 99)
        db.execute("UPDATE meta SET value = 99 WHERE name = 'schema_least'")
    store.close()
    for _ in range(2):
        with pytest.raises(StoreTooNew, match=r"has schema 99, .* this slimq knows \d"):
            work(store)
    with raw(opener.path) as db:
        assert db.pragma("user_version") == 99
        db.pragma("user_version", made)
    assert store.totals().waiting == 1


@contextmanager
def _no_file_grows_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_does_not_fit_changes_nothing_and_goes_on_when_there_is_room(opener: Opener):
    store = opener.open()
    opener.add(store, count=3)
    wal = opener.path.with_name("store.db-wal").stat().st_size
    with _no_file_grows_above(wal + 8192):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="disk"):
                opener.add(store, "acme/new", count=1000)
        assert store.totals().waiting == 3
        assert store.type("acme/new") is None
    opener.add(store, "acme/new", count=1000)
    assert store.totals().waiting == 1003


def _fill_and_protect(folder: Path) -> None:
    """Runs as nobody: a read-only file, and a folder where nothing can be made."""
    opener = Opener(folder / "store.db")
    store = opener.open()
    opener.add(store)
    store.close()
    for path, mode, match in ((opener.path, 0o400, "written"), (folder, 0o500, "opened|written")):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=match):
                opener.add(store)
        path.chmod(before)
        opener.add(store)
        store.close()
    assert store.totals().waiting == 3
    opener.close()


def _as_nobody(check: Callable[[Path], None], folder: Path) -> int:
    """Run `check` in a child that is not root; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        check(folder)
        status = 0
    finally:
        os._exit(status)


def test_a_read_only_file_or_folder_is_unavailable_until_it_can_be_written():
    folder = Path(tempfile.mkdtemp())
    try:
        assert _as_nobody(_fill_and_protect, folder) == 0
    finally:
        shutil.rmtree(folder)


def test_an_error_of_the_caller_rolls_back_and_the_store_goes_on(opener: Opener):
    store = opener.open()
    new = NewJobs(TYPE, 0, ["too-short"], [b""])
    with pytest.raises(AssertionError):
        ingest(store, [new])
    assert store.type(TYPE) is None
    opener.add(store)
    assert store.totals().waiting == 1


class _TickingClock(SystemClock):
    """Every look at it takes a second."""

    seconds = 0

    def boot_ms(self) -> int:
        self.seconds += 1
        return self.seconds * 1000


def test_a_question_that_takes_too_long_is_refused_with_advice(opener: Opener):
    store = opener.open(clock=_TickingClock(), query_ms=1000)
    opener.add(store, count=5000)
    with pytest.raises(StoreUnavailable, match="narrow it"):
        store.jobs(JobFilter(state="deferred"), before="", limit=10)
    with pytest.raises(StoreUnavailable, match="narrow it"):
        store.change_where("cancel", JobFilter(state="deferred"), 10)
    opener.add(store)


def test_an_old_library_is_refused_by_name():
    check_library("3.51.3")
    check_library("3.54.0")
    check_library("4.0.0")
    for version in ("3.51.2", "3.40.1", "3.9.3"):
        with pytest.raises(StartError, match=rf"SQLite {version} .* at least 3\.51\.3"):
            check_library(version)


_OPEN_IN_STEP = """
import sys
from pathlib import Path
from slimq.core.jobid import Minter
from slimq.store.base import Cursor, NewJobs
from slimq.store.sqlite import SqliteStore
from slimq.system.clock import SystemClock
name = sys.argv[1]
minter = Minter(name * 8)
print("ready", flush=True)
for line in sys.stdin:
    store = SqliteStore(Path(line.strip()), clock=SystemClock(), durable=False)
    ids = minter.block(1, 0).ids()
    store.ingest(name, Cursor(), Cursor(0, 1), [NewJobs("a/b", 0, ids, [b""])])
    store.close()
    print("done", flush=True)
"""


def test_processes_that_open_a_new_store_at_once_set_it_up_once(tmp_path: Path):
    words = [sys.executable, "-c", _OPEN_IN_STEP]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*words, name], **pipes) for name in "abc"]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for turn in range(15):
        path = tmp_path / f"store{turn}.db"
        for process in processes:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in processes] == ["done\n"] * 3
        with raw(path) as db:
            assert db.execute("SELECT count(*) FROM job").get == 3
            assert db.execute("SELECT waiting FROM type").get == 3
    for process in processes:
        process.communicate()
        assert process.returncode == 0
