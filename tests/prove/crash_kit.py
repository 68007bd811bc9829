"""A logged disk with a file system on it, and what a power cut may leave of that disk.

A power cut keeps all that was written before the last flush, and of what was written since
then anything: all, nothing, some writes and not others, or some sectors of a write.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from logged_disk import FLUSH, NAME, WRITE, Entry, read_log
from node_kit import wait_until

from postgres_kit import memory, outcome_without

DISK_BYTES = 96 << 20  # the journal's reserve is 16 MiB
SECTOR = 512
# ext4 writes its superblock in place, two sectors with one checksum, and trusts the disk with it:
# a torn one cannot be mounted, whoever's files are on it.
SUPERBLOCK = range(1024, 2048)
TOOLS = ("mkfs.ext4", "e2fsck", "losetup", "mount", "umount")
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_libc = ctypes.CDLL(None, use_errno=True)
LEFT = ("all", "none", "some", "torn")


def run(*words: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def unmount(folder: Path) -> None:
    """Unmount, as soon as the commands that a killed node left there are gone."""

    def is_done() -> bool:
        done = subprocess.run(["umount", str(folder)], capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    wait_until(is_done, f"{folder} is not used any more")


def end(server: subprocess.Popen[bytes]) -> None:
    """Wait for the end of the disk, whose log is whole then; after a failure end it."""
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()


def need_disks() -> None:
    """Skip the test where no disk can be made; fail it where CI is set."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    reason = ""
    if os.geteuid() != 0:
        reason = "only root may mount the disk whose power is cut"
    elif missing:
        reason = f"no {', '.join(missing)}: install e2fsprogs and mount"
    elif not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists():
        reason = "the kernel has no FUSE or no loop devices to make a disk of"
    if reason:
        raise outcome_without(reason, os.environ)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is in memory, if possible: the disks of these tests are not real ones.
    What is mounted meanwhile is mounted for this process, and those that it starts, only."""
    with (
        tempfile.TemporaryDirectory(prefix="slimq-disk-", dir=memory()) as folder,
        own_mounts(),
    ):
        yield Path(folder)


@contextmanager
def own_mounts() -> Iterator[None]:
    """Let no other process see what is mounted. One that copied it (as each sandbox does) would
    keep a file system alive that is unmounted here, and its disk is the next image then."""
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    try:
        _done(_libc.unshare(_NEW_MOUNTS))
        run("mount", "--make-rprivate", "/")
        yield
    finally:
        # A thread of these that was joined may still be there for the kernel, for a moment.
        wait_until(lambda: _libc.setns(before, _NEW_MOUNTS) == 0, "no thread has these mounts")
        os.close(before)


def _done(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Disk:
    """A logged disk. While `mounted`, there is an ext4 on it."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"
        self._log = folder / "log"
        self._fuse = folder / "fuse"
        self._folder = folder / "mounted"
        self._fuse.mkdir()
        self._folder.mkdir()
        with self.base.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", self.base)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount it; all that is written meanwhile goes to the log."""
        words = [sys.executable, str(Path(__file__).with_name("logged_disk.py"))]
        words += [str(self.base), str(self._fuse), str(self._log)]
        with ExitStack() as stack:
            server = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(end, server)
            self._server = server
            assert server.stdout is not None
            assert server.stdout.readline() == b"mounted\n", "FUSE cannot be mounted"
            stack.callback(unmount, self._fuse)
            device = run("losetup", "--show", "-f", self._fuse / NAME.decode())
            stack.callback(run, "losetup", "-d", device)
            run("mount", device, self._folder)
            stack.callback(unmount, self._folder)
            yield self._folder

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let it answer nothing meanwhile: whoever waits for it waits."""
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)

    def log(self) -> list[Entry]:
        return read_log(self._log)


class Images:
    """Makes images of a disk whose power was cut, in the order of time."""

    def __init__(self, base: Path, log: Sequence[Entry], chance: random.Random) -> None:
        self.log = log
        self.flushes = [index for index, entry in enumerate(log) if entry.kind == FLUSH]
        self._chance = chance
        self._safe = base.with_name(f"{base.name}-safe")
        self._done = 0  # how much of the log is in the file `_safe`
        copy_sparse(base, self._safe)

    def make(self, path: Path, cut: int, left: str) -> None:
        """Make the image of a power cut before entry `cut`, which is not before the last
        one. `left` says what is left of that which no flush covers."""
        flushed = bisect_right(self.flushes, cut - 1)
        safe = self.flushes[flushed - 1] if flushed else 0
        with self._safe.open("r+b") as file:
            for entry in self.log[self._done : safe]:
                _write(file.fileno(), entry.offset, entry.data)
            self._done = max(self._done, safe)
        path.unlink(missing_ok=True)  # another file gets another loop device
        copy_sparse(self._safe, path)
        with path.open("r+b") as file:
            for entry in self.log[safe:cut]:
                if entry.kind == WRITE:
                    self._leave(file.fileno(), entry, left)

    def _leave(self, file: int, entry: Entry, left: str) -> None:
        if left == "all" or (left == "some" and self._chance.random() < 0.5):
            _write(file, entry.offset, entry.data)
        elif left == "torn":
            superblock = self._chance.random() < 0.5
            for start in range(0, len(entry.data), SECTOR):
                at = entry.offset + start
                if superblock if at in SUPERBLOCK else self._chance.random() < 0.5:
                    _write(file, at, entry.data[start : start + SECTOR])


def _write(file: int, offset: int, data: bytes) -> None:
    assert os.pwrite(file, data, offset) == len(data)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, and its holes as holes."""
    with source.open("rb") as old, target.open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        end = 0
        while (start := _next_data(old.fileno(), end)) is not None:
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.lseek(new.fileno(), start, os.SEEK_SET)
            while start < end:
                copied = os.sendfile(new.fileno(), old.fileno(), start, end - start)
                assert copied > 0, "the copy is short"
                start += copied


def _next_data(file: int, start: int) -> int | None:
    try:
        return os.lseek(file, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None  # there is no more


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount an image, as a machine does that starts again."""
    folder.mkdir(exist_ok=True)
    run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        unmount(folder)


def check_file_system(image: Path) -> None:
    """The file system itself is sound: what is wrong then is not the disk's doing."""
    run("e2fsck", "-f", "-n", image)
