"""`make cluster`, as a user runs it: a PostgreSQL, three nodes and a load, and then nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_kit import or_skip, wait_until
from postgres_server import find_binaries

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster.py"
READY = "Ctrl-C ends it all."
NODE = re.compile(r"node \d: (\d+)/(\d+)")


class Cluster:
    """The example, started in a session of its own, as a terminal does."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(CLUSTER), *words],
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def introduction(self) -> str:
        """Return what it prints when all is up."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if READY in line:
                return "".join(lines)
        raise AssertionError(f"{''.join(lines)}{self.process.communicate()[1]}")

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, out, err

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=60)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not the usual one, which is closed to others: PostgreSQL never runs as root."""
    or_skip(find_binaries)
    folder = Path(tempfile.mkdtemp(prefix="slimq-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start(folder: Path, *words: str) -> Iterator[Cluster]:
    cluster = Cluster(folder, *words)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    yield from start(folder)


@pytest.fixture
def bounded_cluster(folder: Path) -> Iterator[Cluster]:
    yield from start(folder, "--seconds", "4", "--rate", "300")


def ports(introduction: str) -> list[int]:
    found = re.findall(r"^(?:PostgreSQL|node \d) .*127\.0\.0\.1:(\d+)", introduction, re.M)
    assert len(found) == 4
    return list(map(int, found))


def pid(introduction: str, name: str) -> int:
    found = re.search(rf"^{name} .*pid (\d+)$", introduction, re.M)
    assert found is not None
    return int(found[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def totals(out: str) -> tuple[int, int]:
    found = re.findall(r"^accepted (\d+), done (\d+)", out, re.M)
    return int(found[-1][0]), int(found[-1][1])


def test_all_that_the_cluster_accepted_is_done_and_nothing_is_left(
    bounded_cluster: Cluster,
) -> None:
    introduction = bounded_cluster.introduction()
    assert all(map(listens, ports(introduction)))
    code, out, err = bounded_cluster.end()
    assert (code, err) == (0, "")
    accepted, done = totals(out)
    assert accepted == done > 0
    nodes = [tuple(map(int, found)) for found in NODE.findall(out.splitlines()[-2])]
    assert len(nodes) == 3
    assert sum(node[0] for node in nodes) == sum(node[1] for node in nodes) == done
    assert all(node[0] > 0 for node in nodes)
    assert not any(map(listens, ports(introduction)))
    assert list(bounded_cluster.folder.iterdir()) == []


def test_what_the_cluster_tells_to_try_works_word_by_word_and_ctrl_c_ends_it(
    cluster: Cluster,
) -> None:
    introduction = cluster.introduction()
    lines = [line.strip() for line in introduction.splitlines()]
    words = [line for line in lines if line.startswith(("ID=", "curl "))]
    assert len(words) == 6
    script = "set -e\n" + "\n".join(words)
    tried = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert tried.returncode == 0, tried.stderr
    job, type_, status, *_ = tried.stdout.splitlines()
    assert '"state":"done"' in job
    assert '"type":"*/hash"' in type_
    assert '"up":true' in status
    os.killpg(cluster.process.pid, signal.SIGINT)  # a terminal sends it to the nodes, too
    code, _, err = cluster.end()
    assert (code, err) == (0, "")
    assert not any(map(listens, ports(introduction)))
    assert list(cluster.folder.iterdir()) == []


def test_after_a_crash_of_a_node_and_of_postgresql_the_cluster_does_all_it_accepted(
    bounded_cluster: Cluster,
) -> None:
    introduction = bounded_cluster.introduction()
    os.kill(pid(introduction, "node 2"), signal.SIGKILL)
    os.kill(pid(introduction, "PostgreSQL"), signal.SIGKILL)
    code, out, err = bounded_cluster.end()
    assert (code, err) == (0, "")
    accepted, done = totals(out)
    assert done >= accepted > 0  # of what a dying node accepted, it may not have told
    assert " DEAD" not in out.splitlines()[-2]
    assert list(bounded_cluster.folder.iterdir()) == []


def test_a_terminated_cluster_leaves_nothing(cluster: Cluster) -> None:
    introduction = cluster.introduction()
    cluster.process.terminate()
    code, _, err = cluster.end()
    assert (code, err) == (0, "")
    assert not any(map(listens, ports(introduction)))
    assert list(cluster.folder.iterdir()) == []


def test_a_killed_cluster_leaves_nothing_either(cluster: Cluster) -> None:
    introduction = cluster.introduction()
    cluster.process.kill()
    cluster.end()
    wait_until(lambda: not list(cluster.folder.iterdir()), "all folders are gone")
    wait_until(lambda: not any(map(listens, ports(introduction))), "nobody listens")
