"""What peers are made of, from Debian, PyPI and npm, kept in `.bench/peers` for the next run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import tell
from machine import ROOT
from packages import SBIN, can_install_packages, install_packages
from peers.processes import clean_environment

CACHE = ROOT / ".bench" / "peers"
INSTALL_S = 300


class Absent(RuntimeError):
    """A peer cannot be had on this machine, for the reason that is said."""


def debian(package: str, program: str) -> str:
    """Return the path of a program, which a package of the distribution has. Raises Absent."""
    found = shutil.which(program, path=SBIN)
    if found is None and can_install_packages():
        install_packages(tell, [package])
        found = shutil.which(program, path=SBIN)
    if found is None:
        raise Absent(f"no {program}: apt-get install {package}, which needs root on Debian")
    return found


def python(name: str, requirements: Sequence[str]) -> Path:
    """Return the folder of programs of a virtual environment with some packages. Raises Absent."""
    folder = CACHE / "python" / name
    if _has(folder, requirements):
        return folder / "bin"
    tell(f"installing {' '.join(requirements)}")
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
    _run([*pip, *requirements])
    _keep(folder, requirements)
    return folder / "bin"


def node(requirements: Sequence[str]) -> Path:
    """Return the folder of modules of some npm packages. Raises Absent."""
    folder = CACHE / "node" / requirements[0].rpartition("@")[0]
    if shutil.which("npm") is None:
        raise Absent("no npm: Node.js is not installed")
    if not _has(folder, requirements):
        tell(f"installing {' '.join(requirements)}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _run(["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder), *requirements])
        _keep(folder, requirements)
    return folder / "node_modules"


def _has(folder: Path, requirements: Sequence[str]) -> bool:
    kept = folder / "requirements.json"
    return kept.exists() and json.loads(kept.read_text()) == list(requirements)


def _keep(folder: Path, requirements: Sequence[str]) -> None:
    (folder / "requirements.json").write_text(json.dumps(list(requirements)))


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Absent(f"{command[0]} failed: {error.stderr.strip()[-300:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(str(error)) from None
