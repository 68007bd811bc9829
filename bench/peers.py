"""Other queues on the same PostgreSQL: installed for the run, measured, and removed.

Each drains jobs that do nothing, by one process, as its own documentation tells for speed. What
cannot be installed here (no network, no Node.js) is left out, and the reason is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import Bench, tell
from postgres_server import PostgresServer
from result import Figure

HERE = Path(__file__).parent
TIMEOUT_S = 300


class Peer(NamedTuple):
    """`install` returns the command that runs `program`, and what its environment needs."""

    name: str
    package: str
    program: str
    jobs: int
    install: Callable[[Path, str], tuple[list[str], dict[str, str]]]


def _by_pip(folder: Path, package: str) -> tuple[list[str], dict[str, str]]:
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(folder / "bin" / "pip"), "install", "--quiet", package])
    return [str(folder / "bin" / "python")], {}


def _by_npm(folder: Path, package: str) -> tuple[list[str], dict[str, str]]:
    folder.mkdir()
    _run(["npm", "install", "--silent", "--prefix", str(folder), package])
    return ["node"], {"NODE_PATH": str(folder / "node_modules")}


PEERS = (
    Peer("Procrastinate", "procrastinate==3.10.0", "peer_procrastinate.py", 2_000, _by_pip),
    Peer("PgQueuer", "pgqueuer[asyncpg]==1.6.0", "peer_pgqueuer.py", 50_000, _by_pip),
    Peer("Graphile Worker", "graphile-worker@0.18.0", "peer_graphile.cjs", 50_000, _by_npm),
)


def drained_by_peers(bench: Bench, server: PostgresServer) -> list[Figure]:
    """Return how many jobs a second each of those that can be had drains."""
    found = []
    for peer in PEERS:
        try:
            rate = _rate(bench, server, peer)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            said = getattr(error, "stderr", "") or str(error)
            tell(f"without {peer.name}: {said.strip()[-300:]}")
            continue
        tell(f"{peer.package}: {rate:,.0f} jobs/s")
        version = peer.package.replace("==", "@").rpartition("@")[2]
        found.append(Figure(rate, "jobs/s", name=f"{peer.name} {version} (one run)"))
    return found


def _rate(bench: Bench, server: PostgresServer, peer: Peer) -> float:
    command, needs = peer.install(bench.new_folder(), peer.package)
    url = server.create_database(f"peer_{peer.name.lower().replace(' ', '_')}")
    program = str(HERE / peer.program)
    said = _run([*command, program, url, str(bench.jobs(peer.jobs))], needs)
    return float(said.split()[-1])


def _run(command: Sequence[str], needs: dict[str, str] | None = None) -> str:
    environment = os.environ | (needs or {})
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, env=environment
    )
    return ran.stdout
