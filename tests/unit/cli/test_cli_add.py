from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.cli.add import GATHER_S, REQUEST_BYTES, bodies
from slimq.cli.progress import Progress
from slimq.core.limits import MIB

MEASURED = (
    "import sys\n"
    "from slimq.cli.main import run\n"
    "code = run(sys.argv[1:])\n"
    "with open('/proc/self/status') as status:\n"
    "    print(*(line.split()[1] for line in status if 'VmHWM' in line), file=sys.stderr)\n"
    "sys.exit(code)\n"
)


def slimq_process(node: Any, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        env={**os.environ, "SLIMQ_URL": node.url},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """20 MiB and a bit, in lines of different lengths; the last one is not terminated."""
    path = tmp_path / "large"
    lines = b"".join(b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(1000))
    copies = 20 * MIB // len(lines) + 1
    path.write_bytes(lines * copies + b"last")
    return path


def test_a_large_file_is_sent_whole_in_requests_cut_at_lines(
    slimq: Any, intake: Any, large: Path
) -> None:
    said = slimq("add", "echo", str(large), "--client", "me", "--json")
    assert said.code == 0
    content = large.read_bytes()
    assert intake.hash.digest() == hashlib.sha256(content).digest()
    assert intake.count == content.count(b"\n") + 1
    assert len(intake.bodies) == 3
    assert max(intake.bodies) <= REQUEST_BYTES
    assert said.json == {
        "count": intake.count,
        "requests": 3,
        "bytes": len(content),
        "first": "id-0",
        "last": f"id-{intake.count - 1}",
    }


@pytest.mark.parametrize("from_stdin", [False, True])
def test_memory_is_bounded_whatever_the_size_of_the_input(
    node: Any, intake: Any, large: Path, from_stdin: bool
) -> None:
    content = large.read_bytes() * 4
    large.write_bytes(content)
    with subprocess.Popen(["cat", str(large)], stdout=subprocess.PIPE) as cat:
        words = ["add", "echo", "-" if from_stdin else str(large)]
        ended = slimq_process(node, *words, stdin=cat.stdout)
        cat.kill()
    assert ended.returncode == 0
    assert intake.hash.digest() == hashlib.sha256(content).digest()
    peak_kib = int(ended.stderr.split()[-1])
    assert peak_kib < 56 * 1024, "80 MiB went through; the interpreter itself takes 22"


def test_lines_of_a_pipe_that_goes_on_are_sent_when_they_come(node: Any, intake: Any) -> None:
    arrived = threading.Event()

    def take(received: Any) -> Any:
        arrived.set()
        return intake(received)

    node.answers["POST", "/add"] = take
    process = subprocess.Popen(
        [sys.executable, "-m", "slimq", "add", "echo"],
        env={**os.environ, "SLIMQ_URL": node.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b"one\ntwo\nhal")
    process.stdin.flush()
    assert arrived.wait(20), "the input is not at its end, but two lines are complete"
    out, _ = process.communicate(b"f\n", timeout=20)
    assert [received.body for received in node.received] == [b"one\ntwo\n", b"half\n"]
    assert out.startswith(b"accepted 3 jobs")


def test_the_options_become_parameters_and_the_key_a_header(
    slimq: Any, node: Any, intake: Any, tmp_path: Path
) -> None:
    (tmp_path / "one").write_bytes(b"hello\n")
    options = ["--delay", "5m", "--durability", "store", "--key", "k", "--client", "me"]
    said = slimq("add", "a b/c", str(tmp_path / "one"), *options)
    assert node.last.query == {
        "jobtype": "a b/c",
        "client": "me",
        "delay": "5m",
        "durability": "store",
    }
    assert node.last.headers["idempotency-key"] == "k"
    assert said.out == "accepted 1 job\n"
    assert said.err == "next: slimq jobs get id-0 --wait 30\n"


def test_later_requests_of_one_input_have_keys_of_their_own(
    slimq: Any, node: Any, intake: Any, large: Path
) -> None:
    slimq("add", "echo", str(large), "--key", "k")
    assert [r.headers["idempotency-key"] for r in node.received] == ["k", "k.2", "k.3"]


def test_with_a_key_the_same_input_is_cut_at_the_same_places_however_slow_it_comes() -> None:
    reader, writer = os.pipe()

    def trickle() -> None:
        with io.FileIO(writer, "w") as sink:
            for number in range(8):
                sink.write(b"%d\n" % number)
                select.select([], [], [], 0.01)

    thread = threading.Thread(target=trickle)
    thread.start()
    with io.FileIO(reader) as source:
        assert list(bodies(source, 6, None)) == [b"0\n1\n2\n", b"3\n4\n5\n", b"6\n7\n"]
    thread.join()


@pytest.mark.parametrize(("key", "requests"), [([], 2), (["--key", "k"], 1)])
def test_with_a_key_a_slow_pipe_is_sent_as_one_request(
    node: Any, intake: Any, key: list[str], requests: int
) -> None:
    words = [sys.executable, "-m", "slimq", "add", "echo", "--url", node.url, *key]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as adding:
        assert adding.stdin is not None
        adding.stdin.write(b"one\n")
        adding.stdin.flush()
        wait_until(lambda: is_empty(adding.stdin))
        time.sleep(2 * GATHER_S)  # no more comes for so long: that is what is tested
        wait_until(lambda: len(node.received) == requests - 1)
        adding.stdin.write(b"two\n")
        adding.stdin.close()
        assert adding.wait(60) == 0
    assert len(node.received) == requests


def is_empty(pipe: Any) -> bool:
    """Return whether all that was written to a pipe is read."""
    return fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) == bytes(4)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_empty_file_adds_nothing(slimq: Any, node: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    said = slimq("add", "echo", str(tmp_path / "empty"))
    assert (said.code, said.out, node.received) == (0, "accepted 0 jobs\n", [])


def test_a_request_that_fails_tells_what_was_accepted_before_it_and_which_line_it_was(
    slimq: Any, node: Any, intake: Any, large: Path
) -> None:
    problem = {"title": "Too long", "status": 413, "detail": "line 7", "line": 7}
    node.answers["POST", "/add"] = lambda received: (
        (413, problem) if len(node.received) == 2 else intake(received)
    )
    said = slimq("add", "echo", str(large))
    accepted = intake.count
    assert said.code == 7
    assert said.err == (
        f"slimq: Too long: line 7 (413); that is line {accepted + 7:,} of the input; "
        f"the first {accepted:,} lines are accepted\n"
    )


def test_a_line_that_no_node_takes_is_refused_before_the_memory_is_full(
    slimq: Any, node: Any, tmp_path: Path
) -> None:
    (tmp_path / "long").write_bytes(b"x" * (REQUEST_BYTES + 1))
    said = slimq("add", "echo", str(tmp_path / "long"))
    assert (said.code, node.received) == (7, [])
    assert "a line has at most 1048576 bytes" in said.err


def test_a_node_that_closes_without_an_answer_may_have_accepted(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"hello\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "slimq", "add", "echo", str(tmp_path / "one"), "--url", url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        thread.join()
    assert ended.returncode == 6
    assert "may be accepted or not" in ended.stderr


def test_an_upload_that_is_refused_early_still_shows_why(tmp_path: Path) -> None:
    """The server answers and closes while megabytes are still on their way."""
    (tmp_path / "big").write_bytes(b"x\n" * (4 * MIB))
    problem = json.dumps({"title": "Disk full", "detail": "free space"}).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            head = b"HTTP/1.1 507 X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(problem) + problem)
            connection.close()  # with unread bytes: what is still sent meets a reset

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended = subprocess.run(
            [sys.executable, "-m", "slimq", "add", "echo", str(tmp_path / "big"), "--url", url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        thread.join()
    assert ended.returncode == 7
    assert ended.stderr == "slimq: Disk full: free space (507)\n"


def test_progress_is_drawn_on_a_terminal_only(node: Any, intake: Any, large: Path) -> None:
    plain = slimq_process(node, "add", "echo", str(large))
    assert "\r" not in plain.stderr
    master, slave = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "slimq", "add", "echo", str(large)],
            env={**os.environ, "SLIMQ_URL": node.url},
            stdout=subprocess.DEVNULL,
            stderr=slave,
            timeout=60,
            check=True,
        )
        drawn = os.read(master, 65536).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert "%" in drawn
    assert "jobs/s" in drawn
    assert "left" in drawn


class StepClock:
    def __init__(self) -> None:
        self.now = 0

    def wall_ms(self) -> int:
        return self.now

    def boot_ms(self) -> int:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_line_says_how_far_how_fast_and_how_long_still() -> None:
    clock = StepClock()
    progress = Progress(Terminal(), clock, 4 * MIB)
    clock.now = 2_000
    assert progress.line(MIB, 10_000) == (
        "[######..................]  25%  1.0 MiB  10,000 jobs  5,000 jobs/s  6.0 s left"
    )
    assert Progress(Terminal(), clock, None).line(0, 0) == "0 B  0 jobs  0 jobs/s"


def test_the_progress_line_is_not_drawn_more_often_than_one_can_see() -> None:
    clock, stream = StepClock(), Terminal()
    progress = Progress(stream, clock, 4 * MIB)
    for _ in range(1000):
        progress.show(MIB, 1)
        clock.now += 1
    assert stream.getvalue().count("\r") == 10


@given(
    st.lists(st.binary(max_size=20)).map(b"\n".join),
    st.integers(1, 50),
    st.sampled_from([None, 0.2]),
)
def test_pieces_are_the_input_cut_at_line_ends(
    content: bytes, spare: int, gather_s: float | None
) -> None:
    longest = max(map(len, content.split(b"\n")))
    reader, writer = os.pipe()
    with io.FileIO(writer, "w") as sink:
        sink.write(content)
    with io.FileIO(reader) as source:
        pieces = list(bodies(source, longest + spare, gather_s))
    assert b"".join(pieces) == content
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert all(0 < len(piece) <= longest + spare for piece in pieces)
