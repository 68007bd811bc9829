"""The machine that was measured on, and a folder on a disk that does not lie."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import apsw

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))  # where the PostgreSQL server is
from postgres_server import NoPostgres, find_binaries  # noqa: E402

_NO_DISK = {"tmpfs", "ramfs", "devtmpfs"}  # fdatasync does nothing there


def filesystem_of(path: Path) -> str:
    """Return the type of the filesystem that a path is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(len(point), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding)[1]


@contextmanager
def bench_folder() -> Iterator[Path]:
    """Make a folder for all data of a run, beside the checkout where the usual place for
    temporary files is in memory; remove it at the end."""
    usual = Path(tempfile.gettempdir())
    place = ROOT / ".bench" if filesystem_of(usual) in _NO_DISK else usual
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slimq-bench-", dir=place) as folder:
        yield Path(folder)


def facts(folder: Path) -> dict[str, str]:
    """Return what a reader must know of the machine to judge figures from it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": filesystem_of(folder),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "apsw": f"{apsw.apsw_version()} with SQLite {apsw.sqlite_lib_version()}",
        "PostgreSQL": _postgres(),
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _postgres() -> str:
    try:
        program = find_binaries() / "postgres"
    except NoPostgres:
        return "none"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[2]


def _commit() -> str:
    commit = _git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit} and uncommitted changes" if _git("status", "--porcelain", "src") else commit


def _git(*words: str) -> str:
    try:
        ran = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return ran.stdout.strip()
