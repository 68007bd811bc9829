"""Real wheels, made for tests, and a builder that knows no other: no test asks an index."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest


def make_wheel(folder: Path, name: str, version: str, **modules: str) -> Path:
    """Write a wheel that holds modules, by their names."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    files = {f"{module}.py": source for module, source in modules.items()}
    files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{about}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    rows = [f"{path},{_hash(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,", ""])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return path


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def builder_of(wheels: Path) -> dict[str, str]:
    """Return the environment of a builder that takes wheels of a folder, and nothing else."""
    wheels.mkdir(exist_ok=True)
    return {
        "PATH": os.defpath,
        "HOME": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_INDEX": "1",
        "PIP_NO_CACHE_DIR": "1",
    }


def need_builder() -> None:
    """Skip where the builder is missing; fail where CI is set."""
    try:
        import pip  # noqa: F401
    except ImportError:
        message = "pip is missing beside slimq"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
