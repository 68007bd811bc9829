"""slimq as it is installed: wheels of this tree, of other versions and with more of a schema."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import slimq

PACKAGE = Path(slimq.__file__).parent
METADATA = "Metadata-Version: 2.1\nName: slimq\nVersion: {0}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def install(folder: Path, version: str, scripts: Mapping[str, str]) -> Path:
    """Install a slimq of this version, with more migrations of PostgreSQL: the number and name
    of each, and what it says. Return the folder for PYTHONPATH."""
    place = folder / version
    words = ["--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check", "-q"]
    wheel = _wheel(folder, version, scripts)
    pip = [sys.executable, "-m", "pip", "install", *words, "--target", str(place), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


def _wheel(folder: Path, version: str, scripts: Mapping[str, str]) -> Path:
    said, told = f'__version__ = "{slimq.__version__}"', f'__version__ = "{version}"'
    about = f"slimq-{version}.dist-info"
    files = {
        f"slimq/{file.relative_to(PACKAGE)}": file.read_bytes()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert said.encode() in files["slimq/__init__.py"]
    files["slimq/__init__.py"] = files["slimq/__init__.py"].replace(said.encode(), told.encode())
    for name, text in scripts.items():
        files[f"slimq/store/sql/postgres/{name}.sql"] = text.encode()
    files[f"{about}/METADATA"] = METADATA.format(version).encode()
    files[f"{about}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    path = folder / f"slimq-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in {**files, f"{about}/RECORD": record.encode()}.items():
            wheel.writestr(name, content)
    return path
