"""The programs inside contexts, one for each language, and what they need of this machine."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from slimq.core.limits import MIB
from slimq.runner.cell import program_files, python_folders

_HOST = Path(__file__).parent / "host"
_SCRIPT_HOST = _HOST / "script_context" / "main.mjs"
_NODE_OLDEST = (20, 19)  # it tells by itself which of the two kinds of modules a file is
_NODE_ADVICE = "install Node.js {}.{} or later, so that it is found in PATH".format(*_NODE_OLDEST)
_DENO_ADVICE = "pip install 'slimq[deno]', or install Deno so that it is found in PATH"
_DENO_RESERVED = 512 * MIB  # for code, writable as a whole (mprotect) before any is written
_WASM_ADVICE = "pip install 'slimq[wasm]'"
_VERSION = re.compile(r"\d+(\.\d+)+")
_VERSION_S = 10.0


class Program(NamedTuple):
    """The command of a context, before the words that every context gets; ``{memory_mb}`` in it
    is what the context may take. `readable` are files and folders that are not of the system,
    `oldest` is the least version that will do; `reserved_bytes` are those of `Cell`;
    `package` is the one whose version counts, and not that of the command."""

    command: tuple[str, ...]
    readable: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    oldest: tuple[int, ...] = ()
    advice: str = ""
    reserved_bytes: int = 0
    package: str = ""

    def words(self, memory_bytes: int) -> list[str]:
        memory_mb = str(memory_bytes // MIB)
        return [word.replace("{memory_mb}", memory_mb) for word in self.command]


class Missing(NamedTuple):
    """Why functions of a language cannot run on this machine, and how to mend it."""

    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.why}: {self.advice}"


Programs = Mapping[str, Program | Missing]


def find_programs(search_path: str | None = None) -> Programs:
    """Return what runs each language here; interpreters are looked for in `search_path` (PATH).
    Starts none of them."""
    python = Path(sys.executable).resolve()
    return {
        "python": python_program(python, python_folders(python)),
        "node": _node(search_path),
        "deno": _deno(search_path),
        "wasm": _wasm(),
    }


def version_of(program: Program) -> str | Missing:
    """Return the version of the interpreter of a program. Blocks: it starts it to ask."""
    if program.package:
        return importlib.metadata.version(program.package)
    interpreter = program.command[0]
    try:
        done = subprocess.run(  # noqa: S603  it is what the operator installed
            [interpreter, "--version"], capture_output=True, timeout=_VERSION_S, check=True
        )
        found = _VERSION.search(done.stdout.decode("utf-8", "replace"))
    except (OSError, subprocess.SubprocessError):
        found = None
    if found is None:
        return Missing(f"{interpreter} does not say its version", program.advice)
    if tuple(int(part) for part in found[0].split(".")) < program.oldest:
        return Missing(f"{interpreter} is version {found[0]}", program.advice)
    return found[0]


def python_program(python: Path, readable: tuple[str, ...]) -> Program:
    """Return what runs Python by an interpreter, of which so much must be readable."""
    command = (str(python), "-I", "-S", str(_HOST / "python_host.py"))
    return Program(command, (*readable, str(_HOST)))


def _wasm() -> Program | Missing:
    """The package alone is readable, not what else is installed beside it."""
    spec = find_spec("wasmtime")
    if spec is None or spec.origin is None:
        return Missing("the package wasmtime is not installed", _WASM_ADVICE)
    package = Path(spec.origin).parent
    python = Path(sys.executable).resolve()
    command = (str(python), "-I", "-S", str(_HOST / "wasm_host.py"), str(package))
    readable = (*python_folders(python), str(_HOST), str(package))
    return Program(command, readable, package=spec.name)


def _node(search_path: str | None) -> Program | Missing:
    found = shutil.which("node", path=search_path)
    if found is None:
        return Missing("there is no node in PATH", _NODE_ADVICE)
    node = Path(found).resolve()
    flags = ("--max-old-space-size={memory_mb}", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON")
    return Program(
        (str(node), *flags, str(_SCRIPT_HOST)),
        (*program_files(node), str(_HOST)),
        oldest=_NODE_OLDEST,
        advice=_NODE_ADVICE,
    )


def _deno(search_path: str | None) -> Program | Missing:
    """Deno may do all that the sandbox lets it do: what it would forbid by itself is less."""
    beside = str(Path(sys.executable).parent)  # where packages put their programs
    found = shutil.which("deno", path=search_path) or shutil.which("deno", path=beside)
    if found is None:
        return Missing("there is no deno in PATH", _DENO_ADVICE)
    deno = Path(found).resolve()
    flags = ("--quiet", "--allow-all", "--no-config", "--no-lock", "--no-code-cache")
    heap = "--v8-flags=--max-old-space-size={memory_mb}"
    return Program(
        (str(deno), "run", *flags, heap, str(_SCRIPT_HOST)),
        (str(deno), str(_HOST)),
        environment=(("DENO_NO_UPDATE_CHECK", "1"), ("NO_COLOR", "1")),
        oldest=(2,),
        advice=_DENO_ADVICE,
        reserved_bytes=_DENO_RESERVED,
    )
