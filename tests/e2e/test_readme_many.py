"""The section "From one machine to many" of the README, word by word, with a real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postgres_kit import Server
from postgres_server import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def lines() -> list[str]:
    section = README.partition("## From one machine to many\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    for port in ("3001", "3002"):  # which another node of this machine may have
        block = block.replace(port, str(free_port()))
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def environment(server: Server) -> dict[str, str]:
    """Return what makes libpq and its programs find the server, as a machine with a
    PostgreSQL of its own has it."""
    url = urllib.parse.urlsplit(server.url())
    assert url.hostname is not None
    found = {"PGHOST": url.hostname, "PGPORT": str(url.port), "PGUSER": str(url.username)}
    path = f"{server.binaries}:{os.environ['PATH']}"
    return os.environ | found | {"PATH": path}


@contextmanager
def serving(words: str, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Run a line that does not end by itself, until it says that it is ready."""
    command = [sys.executable, "-m", *words.split()]
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        shown = process.stdout.readline()
        assert "is ready" in shown, process.communicate()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_lines_from_one_machine_to_many_do_what_they_say(
    make_postgres: object, tmp_path: Path
) -> None:
    assert callable(make_postgres)
    server = make_postgres()
    install, create, first, second, *words = lines()
    assert install == "pip install '.[postgres]'"  # the tests have it
    assert first.startswith("slimq serve ")
    assert second.startswith("slimq serve ")
    env = environment(server)
    subprocess.run(create.split(), env=env, check=True, timeout=30)
    assert words[-1].startswith("slimq nodes ls ")
    command = f'slimq() {{ "{sys.executable}" -m slimq "$@"; }}'
    script = "\n".join(["set -e", command, *words])
    with serving(first, tmp_path, env), serving(second, tmp_path, env):
        tried = subprocess.run(
            ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60
        )
        assert tried.returncode == 0, tried.stderr
    (job,) = [json.loads(line) for line in tried.stdout.splitlines() if line.startswith('{"id"')]
    assert (job["state"], job["status"], job["result"]) == ("done", 200, "hello")
    assert tried.stdout.count(" alive ") == 2
