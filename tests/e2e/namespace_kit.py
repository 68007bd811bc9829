"""Machines in small: network namespaces, each wired to this one by a cable that can be cut."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from node_kit import Answer, Node

from postgres_kit import outcome_without

CLONE_NEWNET = 0x40000000
SKEW_LIBRARIES = "/usr/lib/*/faketime/libfaketime.so.1"
T = TypeVar("T")


def need_namespaces() -> None:
    """Skip the test where there can be none. What an installer could mend fails where CI is set."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        raise outcome_without("no command ip (package iproute2)", os.environ)
    probe = f"slimq-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"this kernel or container allows no namespace: {made.stderr.strip()}")
    _ip("netns", "delete", probe)


class Machine:
    """A namespace. `gateway` is where it reaches this machine, as long as the cable is whole."""

    def __init__(self, number: int) -> None:
        self.name = f"slimq-{os.getpid()}-{number}"
        self._cable = f"sq{os.getpid() % 1_000_000}-{number}"
        subnet = f"10.{20 + os.getpid() % 200}.{number}"
        self.gateway, address = f"{subnet}.1", f"{subnet}.2"
        _ip("netns", "add", self.name)
        inner = ("link", "add", self._cable, "type", "veth", "peer", "name", "eth0")
        _ip(*inner, "netns", self.name)
        _ip("address", "add", f"{self.gateway}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        _ip("-n", self.name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", device, "up")
        self._inside = ThreadPoolExecutor(4, initializer=self._enter)

    def run(self, work: Callable[[], T]) -> T:
        """Do something on a thread that is on this machine."""
        return self._inside.submit(work).result()

    def cut(self) -> None:
        """Packets are lost from now on, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self._cable, "up")

    def close(self) -> None:
        self._inside.shutdown()
        _ip("link", "delete", self._cable)
        _ip("netns", "delete", self.name)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        file = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        assert libc.setns(file, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(file)


class FarNode(Node):
    """A node on a machine, whose clock may be off. It is spoken to from there."""

    def __init__(self, machine: Machine, folder: Path, *, skew: str = "", **settings: str) -> None:
        self._machine = machine
        if skew:
            library = skew_library()
            assert library is not None
            settings |= {
                "LD_PRELOAD": str(library),
                "FAKETIME": skew,
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        super().__init__(folder, prefix=("ip", "netns", "exec", machine.name), **settings)

    def ask(self, *words: Any, **options: Any) -> Answer:
        return self._machine.run(lambda: Node.ask(self, *words, **options))


def skew_library() -> Path | None:
    """Return what makes the clock of a process wrong, where it is installed."""
    return next(iter(sorted(Path("/").glob(SKEW_LIBRARIES.lstrip("/")))), None)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
