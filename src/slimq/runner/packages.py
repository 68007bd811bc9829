"""The packages that functions declare: built once, shared by all functions that need the same.

::

    .slimq/packages/                       0700
      3f9a.../PIL/ ...                     by the SHA-256 of requirements and interpreter
      .3f9a...-x7Kq/                       being built; renamed when it is complete

Whoever uploads a function may be hostile, and the builder runs outside the sandbox. So it takes
only wheels, which are unpacked and run nothing; the first line of a package runs in a context. The
builder is uv, or pip where there is no uv, with the operator's own settings. Where pip has been
given settings it is always pip: uv would not read them, and would ask the public index.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

from slimq.core.limits import (
    BUILD_HOLD_S,
    BUILD_LINES_SHOWN,
    BUILD_TIMEOUT_S,
    BUILDS_MAX,
    FUNCTION_UNUSED_S,
    PACKAGES_BYTES_MAX,
)
from slimq.runner.environments import Interpreter

PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
PIP_VARIABLES = ("CONFIG_FILE", "EXTRA_INDEX_URL", "FIND_LINKS", "INDEX_URL", "NO_INDEX")
_NEW = "."  # what the name of a folder that is not complete begins with
_LINE_MAX = 300
_WATCH_S = 1.0


class NotBuilt(OSError):
    """Why packages are not there, with the last words of the builder."""


class Packages:
    """Builds below `folder`, which several nodes may share. `environ` is that of the builder: it
    holds the operator's settings. Used on the event loop only."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder.absolute()
        self._environ = dict(environ)
        self._builds: dict[str, asyncio.Task[Path]] = {}
        self._failed: dict[str, tuple[float, NotBuilt]] = {}
        self._at_once = asyncio.Semaphore(BUILDS_MAX)
        self._said: dict[str, deque[str]] = {}

    @property
    def building(self) -> list[str]:
        """The last line that each builder under way said."""
        return [lines[-1] for lines in self._said.values()]

    async def place(
        self, requirements: Sequence[str], interpreter: Interpreter, *, anew: bool
    ) -> Path:
        """Return the folder of these packages for an interpreter, built if need be. Raises
        NotBuilt; also for a while after a failure, unless it is to be tried `anew`."""
        name = _digest(requirements, interpreter)
        path = self._folder / name
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return path
        until, error = self._failed.get(name, (0.0, None))
        if error is not None and not anew and time.monotonic() < until:
            raise error.with_traceback(None)
        task = self._builds.get(name)
        if task is None:
            task = asyncio.create_task(self._build(name, requirements, interpreter))
            self._builds[name] = task
            task.add_done_callback(lambda done: self._built(name, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is being built."""
        tasks = list(self._builds.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _built(self, name: str, task: asyncio.Task[Path]) -> None:
        del self._builds[name]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, NotBuilt):
            self._failed[name] = (time.monotonic() + BUILD_HOLD_S, error)
        else:
            self._failed.pop(name, None)

    async def _build(
        self, name: str, requirements: Sequence[str], interpreter: Interpreter
    ) -> Path:
        lines = self._said[name] = deque(["waits for its turn"], BUILD_LINES_SHOWN)
        loop = asyncio.get_running_loop()
        new = None
        try:
            async with self._at_once:
                new = await loop.run_in_executor(None, self._make_folder, name)
                packages = new / "packages"
                command = command_of(self._environ, interpreter, packages, requirements)
                lines.append(f"{' '.join(requirements)}: asks for packages")
                await asyncio.wait_for(self._run(command, new, lines), BUILD_TIMEOUT_S)
                return await loop.run_in_executor(None, _keep, new, self._folder / name)
        except OSError as error:  # a TimeoutError is one
            why = str(error) or f"not built within {BUILD_TIMEOUT_S:.0f} s"
            raise NotBuilt(_failure(requirements, lines, why)) from error
        finally:
            del self._said[name]
            if new is not None:
                await loop.run_in_executor(None, shutil.rmtree, new, True)

    def _make_folder(self, name: str) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        before = time.time() - FUNCTION_UNUSED_S
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another node deleted it
                if path.stat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True)
        new = Path(mkdtemp(prefix=f"{_NEW}{name}-", dir=self._folder))
        (new / "packages").mkdir()
        (new / "tmp").mkdir()
        return new

    async def _run(self, command: Sequence[str], new: Path, lines: deque[str]) -> None:
        """Run the builder. Whatever ends the wait kills it. Raises NotBuilt."""
        fixed = {"TMPDIR": str(new / "tmp"), "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environ | fixed,
            start_new_session=True,
        )
        watch = asyncio.create_task(_watch_size(new))
        reading = asyncio.create_task(_read(process.stdout, lines))
        try:
            await asyncio.wait((watch, reading), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            await reading
            code = await process.wait()
            if code:
                raise NotBuilt(f"the builder ended with {code}")
        finally:
            for task in (watch, reading):
                task.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.gather(watch, reading, return_exceptions=True)


async def _read(stream: asyncio.StreamReader | None, lines: deque[str]) -> None:
    assert stream is not None, "it was asked for"
    rest = b""
    while chunk := await stream.read(65_536):
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LINE_MAX:]
        for line in whole:
            text = line.decode("utf-8", "replace").strip()
            if text:
                lines.append(text[:_LINE_MAX])


async def _watch_size(folder: Path) -> None:
    """Raise NotBuilt when a folder gets too large."""
    loop = asyncio.get_running_loop()
    size = 0
    while size <= PACKAGES_BYTES_MAX:
        await asyncio.sleep(_WATCH_S)
        size = await loop.run_in_executor(None, lambda: sum(_sizes(folder)))
    raise NotBuilt(f"its packages take more than {PACKAGES_BYTES_MAX} bytes")


def _sizes(folder: Path) -> Iterator[int]:
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it was temporary
                yield Path(path, name).lstat().st_size


def _keep(new: Path, path: Path) -> Path:
    """Put packages where they stay. A context may run as a user of its own, and reads them."""
    packages = new / "packages"
    for folder, _, names in os.walk(packages):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    try:
        packages.rename(path)
    except OSError:
        if not path.is_dir():  # else another node was faster
            raise
    return path


def _digest(requirements: Sequence[str], interpreter: Interpreter) -> str:
    words = "\n".join((interpreter.tag, *requirements))
    return hashlib.sha256(words.encode()).hexdigest()


def _failure(requirements: Sequence[str], lines: deque[str], why: str = "") -> str:
    said = "\n".join(filter(None, [*lines, why]))
    return f"the packages of {', '.join(requirements)} cannot be built:\n{said}"


def command_of(
    environ: Mapping[str, str],
    interpreter: Interpreter,
    folder: Path,
    requirements: Sequence[str],
    pip_files: Sequence[str] = PIP_FILES,
    beside: Path = Path(sys.executable).parent,
) -> list[str]:
    """Return the command that puts packages into a folder. uv is looked for in PATH, then `beside`
    our interpreter: who starts slimq by its path has activated nothing. Raises NotBuilt without a
    builder."""
    target = ["--target", str(folder), "--only-binary", ":all:"]
    path = environ.get("PATH", os.defpath)
    uv = shutil.which("uv", path=path) or shutil.which("uv", path=str(beside))
    if uv and not _is_pip_configured(environ, pip_files):
        words = [uv, "pip", "install", "--python", str(interpreter.path), "--no-progress"]
        return [*words, "--link-mode", "copy", *target, "--", *requirements]
    if importlib.util.find_spec("pip") is None:
        raise NotBuilt(
            "slimq has no builder here: install uv beside it; or pip (python -m ensurepip), which "
            "it must be where pip has been given settings"
        )
    words = [sys.executable, "-I", "-u", "-m", "pip", "--python", str(interpreter.path), "install"]
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    return [*words, *quiet, "--no-warn-script-location", *target, "--", *requirements]


def _is_pip_configured(environ: Mapping[str, str], pip_files: Sequence[str]) -> bool:
    home = environ.get("HOME", "/nonexistent")
    files = [Path(sys.prefix, "pip.conf"), *(Path(path.replace("~", home)) for path in pip_files)]
    asked = any(f"PIP_{name}" in environ for name in PIP_VARIABLES)
    return asked or any(file.exists() for file in files)
