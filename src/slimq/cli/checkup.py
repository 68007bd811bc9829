"""The examinations that ``slimq doctor`` makes. Each looks at one thing, changes nothing
that lasts, and says what to do when it is not well."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from slimq.cli.output import duration_text, printable, size_text
from slimq.core.limits import RESERVE_BYTES
from slimq.errors import FolderUnusable
from slimq.journal.check import check_folder
from slimq.system.clock import Clock
from slimq.system.disk import SystemDisk

PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 51, 3)  # older ones can corrupt a WAL: https://sqlite.org/wal.html#walresetbug
FREE_WARN = 64 * RESERVE_BYTES
FREE_FAIL = 2 * RESERVE_BYTES
FSYNC_SAMPLES = 20
FSYNC_WARN_MS = 20.0
DESCRIPTORS_WARN = 4096  # callers, connections of handlers, and pipes of commands together
SKEW_WARN_MS = 2_000
PROBE_TIMEOUT_S = 2.0
_EARLIEST_MS = 1_767_225_600_000  # 2026-01-01: a clock before it was never set
_LATEST_MS = 32_503_680_000_000  # the year 3000, where done jobs begin
_NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "afs", "fuse.sshfs", "lustre")


class Check(NamedTuple):
    """What was looked at, how it is, and what to do about it."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


def python(version: Sequence[int]) -> Check:
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < PYTHON_MIN:
        return Check("python", "fail", text, "install Python 3.11 or later")
    return Check("python", "ok", text)


def sqlite(version: str) -> Check:
    numbers = tuple(int(part) for part in version.split("."))
    if numbers < SQLITE_MIN:
        return Check("sqlite", "fail", version, "pip install --upgrade apsw")
    return Check("sqlite", "ok", version)


def folder(path: Path) -> Check:
    """The data folder belongs to us alone."""
    name = "data folder"
    shown = printable(str(path))
    try:
        about = path.stat()
    except FileNotFoundError:
        parent = existing(path)
        if os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{shown} will be made at the first start")
        return Check(name, "fail", f"{shown} cannot be made", f"make {parent} writable, or --data")
    except OSError as error:
        return Check(name, "fail", f"{shown}: {error.strerror}", "choose another with --data")
    if not stat.S_ISDIR(about.st_mode):
        return Check(name, "fail", f"{shown} is no folder", "choose another with --data")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return Check(name, "fail", f"{shown} is not writable", f"chown it to user {os.getuid()}")
    mode = stat.S_IMODE(about.st_mode)
    if mode & 0o022:
        return Check(name, "fail", f"{shown} has mode {mode:04o}", f"chmod 0700 {shown}")
    if mode & 0o055:
        return Check(name, "warn", f"{shown} has mode {mode:04o}", f"chmod 0700 {shown}")
    return Check(name, "ok", f"{shown} has mode {mode:04o}")


def free_space(path: Path) -> Check:
    free = shutil.disk_usage(existing(path)).free
    detail = f"{size_text(free)} free"
    if free < FREE_FAIL:
        return Check("disk space", "fail", detail, "free space: accepting answers 507 by then")
    if free < FREE_WARN:
        return Check("disk space", "warn", detail, "free space, or purge earlier (purge.ok)")
    return Check("disk space", "ok", detail)


def fsync(path: Path) -> Check:
    """How long an answer to `POST /add` has to wait for the disk."""
    try:
        with tempfile.NamedTemporaryFile(dir=existing(path), prefix=".slimq-doctor-") as file:
            took_ms = [_fsync_ms(file.fileno()) for _ in range(FSYNC_SAMPLES)]
    except OSError as error:
        return Check(
            "fsync", "fail", f"{error.strerror}", "look at the disk, and its mount options"
        )
    median, longest = statistics.median(took_ms), max(took_ms)
    detail = f"median {median:.2f} ms, longest {longest:.2f} ms, of {FSYNC_SAMPLES}"
    if median > FSYNC_WARN_MS:
        return Check("fsync", "warn", detail, "use a faster disk: every answer waits for one fsync")
    return Check("fsync", "ok", detail)


def _fsync_ms(descriptor: int) -> float:
    os.write(descriptor, bytes(4096))
    start = time.perf_counter_ns()
    os.fdatasync(descriptor)
    return (time.perf_counter_ns() - start) / 1e6


def file_system(store: Path, mounts: str) -> Check:
    """SQLite's WAL works among processes of one machine only. `mounts` is the text of
    /proc/self/mounts."""
    place = str(existing(store).resolve())
    found = ("", "unknown")
    for line in mounts.splitlines():
        _, mount, kind, *_ = line.split(" ")
        point = mount.replace("\\040", " ")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):
            found = (point, kind)
    kind = found[1]
    if kind.startswith(_NETWORK):
        advice = "move the store to a local disk (store.path)"
        return Check("file system", "fail", f"the store is on {kind}, a network", advice)
    return Check("file system", "ok", f"the store is on {kind}")


def journal(path: Path) -> Check:
    """Read the whole journal; it may be beside a running node."""
    if _is_missing(path):
        return Check("journal", "ok", "will be made at the first start")
    try:
        segments = check_folder(path, SystemDisk())
    except FolderUnusable as error:
        return Check("journal", "fail", error.detail, "fix the owner and mode of the folder")
    damaged = sum(segment.damaged for segment in segments)
    jobs = sum(segment.jobs for segment in segments)
    detail = f"{len(segments)} segments, {jobs:,} jobs, {damaged} damaged pieces"
    if damaged:
        advice = "slimq journal check; the disk gave back what was never written: replace it"
        return Check("journal", "fail", detail, advice)
    return Check("journal", "ok", detail)


def store(path: Path) -> Check:
    """Read the store as it is. The driver is used directly, because the doctor must come
    through where a node would refuse to start."""
    shown = printable(str(path))
    if _is_missing(path):
        return Check("store", "ok", f"{shown} will be made at the first start")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(int(PROBE_TIMEOUT_S * 1000))
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        finally:
            connection.close()
    except apsw.Error as error:
        advice = "stop all nodes, then restore a backup or move the file away"
        return Check("store", "fail", f"{shown}: {error}", advice)
    return Check("store", "ok", f"{shown}, {size_text(path.stat().st_size)}, {tables} tables")


def port(host: str, number: int) -> Check:
    """Whether a node can listen, or already does."""
    name, place = "port", f"{host}:{number}"
    if number == 0:
        return Check(name, "ok", "the system chooses one")
    connection = http.client.HTTPConnection(host, number, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/status")
        status = json.loads(connection.getresponse().read())
        return Check(name, "ok", f"a node answers at {place}: {printable(str(status['state']))}")
    except ConnectionRefusedError:
        return Check(name, "ok", f"{place} is free")
    except socket.gaierror:
        return Check(name, "fail", f"{host} is not known", "set server.host to 127.0.0.1")
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        advice = "stop what listens there, or choose another with --port"
        return Check(name, "fail", f"{place} is taken by another program", advice)
    finally:
        connection.close()


def descriptors(limit: int) -> Check:
    if limit < DESCRIPTORS_WARN:
        advice = "ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit"
        return Check("open files", "warn", f"at most {limit:,}", advice)
    return Check("open files", "ok", f"at most {limit:,}")


def clock(path: Path, ours: Clock) -> Check:
    """Whether the time is plausible, and the disk has the same."""
    now = ours.wall_ms()
    advice = "set the clock, for example with timedatectl set-ntp true"
    if not _EARLIEST_MS <= now < _LATEST_MS:
        return Check("clock", "fail", f"{now} ms since 1970 cannot be true", advice)
    try:
        with tempfile.NamedTemporaryFile(dir=existing(path), prefix=".slimq-doctor-") as file:
            skew_ms = abs(os.fstat(file.fileno()).st_mtime_ns // 1_000_000 - now)
    except OSError as error:
        return Check("clock", "warn", f"not compared: {error.strerror}")
    if skew_ms > SKEW_WARN_MS:
        return Check("clock", "warn", f"the disk is {duration_text(skew_ms)} off", advice)
    return Check("clock", "ok", "plausible")


def existing(path: Path) -> Path:
    """Return the folder that is, or will hold, `path`."""
    place = path.absolute()
    while not os.path.isdir(place):  # noqa: PTH112  Path.is_dir raises where one may not look
        place = place.parent
    return place


def _is_missing(path: Path) -> bool:
    """Whether nothing is there. Where one may not look something may be: to open it says so."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
