"""``slimq serve`` as a process: the banner, the log, the end, and what prevents a start."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slimq.cli.serve import show_banner
from slimq.config import load

TIMEOUT_S = 30


Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start nodes on a data folder; none is left when the test has ended. Their streams are
    buffered, as they are wherever PYTHONUNBUFFERED is not set."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with ExitStack() as stack:

        def start(*words: str, data: str = "data") -> subprocess.Popen[str]:
            folder = ["--data", str(tmp_path / data), "--port", "0"]
            process = subprocess.Popen(
                [sys.executable, "-m", "slimq", "serve", *folder, *words],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def read_banner(process: subprocess.Popen[str]) -> str:
    """Return the banner; it ends with the way to stop."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Stop it"):
            return "".join(lines)
    raise AssertionError(f"no banner: {process.communicate()[1]}")


@pytest.mark.skipif(not shutil.which("curl"), reason="the banner is for people who have curl")
def test_the_lines_of_the_banner_work_when_they_are_pasted(serve: Serve) -> None:
    process = serve()
    banner = read_banner(process)
    pasted = "\n".join(line for line in banner.splitlines() if re.match(r"  (curl|ID=)", line))
    assert pasted.count("curl") == 3
    shell = subprocess.run(
        ["bash", "-euc", pasted], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    put, end = json.JSONDecoder().raw_decode(shell.stdout)
    job = json.loads(shell.stdout[end:])
    assert (put["lang"], put["version"]) == ("exec", 1)
    assert (job["state"], job["status"], job["data"]) == ("done", 200, "hello")
    stop = re.search(r"or: (curl .*)", banner)
    assert stop is not None
    subprocess.run(["bash", "-c", stop[1]], capture_output=True, timeout=TIMEOUT_S, check=True)
    assert process.wait(TIMEOUT_S) == 0


def test_the_log_is_json_on_stderr_and_the_banner_alone_is_on_stdout(
    serve: Serve, tmp_path: Path
) -> None:
    process = serve()
    banner = read_banner(process)
    assert f"  data   {tmp_path / 'data'}\n" in banner
    assert f"  store  {tmp_path / 'data' / 'store.db'}\n" in banner
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (0, "")
    entries = [json.loads(line) for line in err.splitlines()]
    assert {"at", "level", "event"} <= entries[0].keys()


def test_a_held_folder_ends_with_3_and_one_line(serve: Serve) -> None:
    read_banner(serve())
    second = serve()
    _, err = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 3
    assert err.startswith("slimq: ")
    assert err.count("\n") == 1


def test_a_taken_port_ends_with_5_and_one_line(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = serve("--port", str(listener.getsockname()[1]))
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 5
    (line,) = (line for line in err.splitlines() if not line.startswith("{"))
    assert re.fullmatch(r"slimq: port \d+ on 127\.0\.0\.1 is taken by another process", line)


def test_an_unusable_folder_ends_with_4_and_an_open_address_with_2(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    process = serve(data="file/data")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 4
    process = serve("--host", "0.0.0.0")
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "without keys only loopback addresses" in err


def test_a_log_that_nobody_reads_changes_nothing(serve: Serve) -> None:
    process = serve()
    read_banner(process)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 0


def test_a_banner_that_nobody_reads_changes_nothing(serve: Serve) -> None:
    process = serve()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "node.started" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert all(line.startswith("{") for line in err.splitlines())


def test_the_banner_shows_no_control_characters_of_a_path(tmp_path: Path) -> None:
    stream = io.StringIO()
    config = load({"data.path": str(tmp_path)}, {}, tmp_path)
    show_banner(stream, "http://127.0.0.1:3001", config)
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_node_whose_streams_are_closed_runs_and_writes_into_no_file_of_its_own(
    tmp_path: Path, closed: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    words = f'exec "$0" -m slimq serve --data data --port {port} {closed}'
    with subprocess.Popen(
        ["/bin/sh", "-c", words, sys.executable],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            node = connect(port)
            streams = {Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in range(3)}
            node.request("POST", "/quit")
            assert node.getresponse().status == 200
            node.close()
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
    assert streams == {Path(os.devnull)}


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection to a node as soon as it listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    end = time.monotonic() + TIMEOUT_S
    while connection.sock is None:
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.05)
    return connection
