"""The processes of the demo and the cluster: started in its folder, ended with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SETTINGS = {
    "SLIMQ_HTTP__ALLOW": "127.0.0.0/8",  # the receiver is there
    "SLIMQ_SERVER__DRAIN": "3s",  # who presses Ctrl-C is waiting
}


class Child:
    """A Python program that prints its address when it is ready. A context manager."""

    def __init__(self, words: Sequence[str], folder: Path, log: str, **settings: str) -> None:
        # What the caller has set for a node of his own is not for this one.
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("SLIMQ_")}
        self._log = folder / log
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env=inherited | SETTINGS | settings,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def address(self) -> str:
        """Return the first address that it prints. Raises RuntimeError when it ends before."""
        for line in self._process.stdout or ():
            _, scheme, rest = line.partition("http://")
            if scheme:
                return scheme + rest.strip().rstrip("/")
        raise RuntimeError(f"a process did not start:\n{self._log.read_text()}")

    def exit_code(self, timeout_s: float) -> int | None:
        """Wait for its end; return None when it does not come."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        if self.exit_code(30) is None:
            self._process.kill()
        self._process.communicate()
