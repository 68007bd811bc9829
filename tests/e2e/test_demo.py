"""The examples, as a user runs them: each as a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HAS_FUNCTIONS = shutil.which("bwrap") is not None  # without a sandbox the demo leaves them out
ALL = "420" if HAS_FUNCTIONS else "410"
LAST_LINE = r"accepted (\d+) done (\d+) failed (\d+) in [\d.]+ s, \d+ jobs/s"


# --- demo.py -----------------------------------------------------------------------------


@contextmanager
def running_demo(folder: Path, examples: Path = EXAMPLES) -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [sys.executable, str(examples / "demo.py"), "--files", "400"],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder), "SLIMQ_SERVER__PORT": "1", "HOME": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield demo
    finally:
        demo.terminate()
        demo.communicate()


def run_demo(folder: Path, examples: Path = EXAMPLES) -> tuple[int, str, str]:
    with running_demo(folder, examples) as demo:
        out, err = demo.communicate(timeout=60)
        return demo.returncode, out, err


def changed_examples(folder: Path, name: str, old: str, new: str) -> Path:
    """Return a copy of the examples, one of them changed."""
    copy = folder / "examples"
    shutil.copytree(EXAMPLES, copy)
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    return copy


def test_the_demo_runs_the_main_job_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, out, err = run_demo(tmp_path)
    assert (code, err) == (0, "")
    last = re.search(LAST_LINE, out)
    assert last is not None, out
    assert last.groups() == (ALL, ALL, "0")
    assert "every job is done, and every result is the one computed here" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "failed", "said"),
    [
        ("hash_lines.py", "hexdigest()", "hexdigest()[::-1]", "0", "is wrong"),
        ("hash_lines.py", 'f"200 ', 'f"400 ', "400", "is no success"),
        pytest.param(
            "functions/hash_content.py",
            "hexdigest()",
            "hexdigest()[::-1]",
            "0",
            "is wrong",
            marks=pytest.mark.skipif(not HAS_FUNCTIONS, reason="bubblewrap is missing"),
        ),
        ("receiver.py", "sha256(data)", "sha256(data + b'!')", "0", "is wrong"),
        ("receiver.py", "webhook.verify(data, ", "webhook and dict(", "0", "that nobody signed"),
    ],
    ids=["wrong hash", "failed jobs", "wrong function", "wrong answer", "unverified"],
)
def test_the_demo_fails_and_keeps_its_logs_when_something_is_wrong(
    tmp_path: Path, name: str, old: str, new: str, failed: str, said: str
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    code, out, err = run_demo(folder, changed_examples(tmp_path, name, old, new))
    assert code == 1
    last = re.search(LAST_LINE, out)
    assert last is not None, out
    assert last.groups() == (ALL, ALL, failed)
    assert said in err
    (kept,) = folder.iterdir()
    assert f"are kept in {kept}" in err
    assert (kept / "node.log").stat().st_size > 0


def test_the_demo_says_so_when_the_machine_has_not_as_many_files(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for name in ("one", "two"):
        (tmp_path / "few" / name).write_text(name)
    root = f'in ("{tmp_path / "few"}",):'
    copy = changed_examples(tmp_path, "machine_files.py", "in ROOTS:", root)
    code, out, _ = run_demo(tmp_path, copy)
    assert "chose 2 files of this machine (not 400: it has no more)" in out
    count = 4 if HAS_FUNCTIONS else 3
    assert f"accepted {count} done {count} failed 0" in out
    assert code == 0


def test_the_demo_fails_when_there_is_no_file(tmp_path: Path) -> None:
    copy = changed_examples(tmp_path, "machine_files.py", "in ROOTS:", "in ():")
    code, _, err = run_demo(tmp_path, copy)
    assert code == 1
    assert "no file can be read" in err
    assert list(tmp_path.iterdir()) == [copy]


def test_an_interrupted_demo_ends_its_processes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    copy = changed_examples(tmp_path, "hash_lines.py", "def main() -> None:", STUCK)
    folder = tmp_path / "temporary"
    folder.mkdir()
    with running_demo(folder, copy) as demo:
        assert demo.stdout is not None
        addresses: list[str] = []
        while not addresses:
            addresses = re.findall(r"http://[\w.:]+", demo.stdout.readline())
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert list(folder.iterdir()) == []
    assert len(addresses) == 2
    for address in addresses:
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(address)


STUCK = """
import signal
def main() -> None:
    signal.pause()
"""


# --- hash_lines.py -----------------------------------------------------------------------


def hash_lines(lines: bytes) -> list[bytes]:
    words = [sys.executable, str(EXAMPLES / "hash_lines.py")]
    done = subprocess.run(words, input=lines, capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    return done.stdout.splitlines()


def test_every_line_has_a_result_line_whatever_is_in_it(tmp_path: Path) -> None:
    names = [b"plain", b" spaced ", b"#sharp", b"\xff\xfe", "täglich".encode(), b"a\rb\tc"]
    paths = [bytes(tmp_path) + b"/" + name for name in names]
    for path, name in zip(paths, names, strict=True):
        Path(os.fsdecode(path)).write_bytes(b"in " + name)
    odd = [b"", b"/no/such/file", bytes(tmp_path), b"a\0b"]
    results = hash_lines(b"\n".join(paths + odd))
    right = [b"200 " + hashlib.sha256(b"in " + name).hexdigest().encode() for name in names]
    assert results == right + [b"422 no such file"] * len(odd)


# --- receiver.py -------------------------------------------------------------------------


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    words = [str(EXAMPLES / "receiver.py"), str(tmp_path / "secret"), "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def signed(id_: str, body: bytes, at: datetime) -> dict[str, str]:
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(id_, at, body.decode()),
    }


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_receiver_takes_what_is_signed_and_counts_jobs_once(receiver: str) -> None:
    now = datetime.now(UTC)
    body = "zwölf".encode()
    for _ in range(2):
        status, text = ask(receiver, body, signed("job-1", body, now))
        assert (status, text) == (200, hashlib.sha256(body).hexdigest())
    counts = json.loads(ask(receiver)[1])
    assert counts == {"verified": 2, "jobs": 1, "refused": 0}


def test_the_receiver_refuses_everything_else(receiver: str) -> None:
    now = datetime.now(UTC)
    good = signed("job-1", b"pay 10", now)
    refused = [
        (b"pay 10", {}),
        (b"pay 99", good),
        (b"pay 10", good | {"webhook-id": "job-2"}),
        (b"pay 10", good | {"webhook-timestamp": str(int(now.timestamp()) + 1)}),
        (b"pay 10", good | {"webhook-signature": "nonsense"}),
        (b"pay 10", good | {"webhook-signature": "v1,***"}),
        (b"pay 10", signed("job-1", b"pay 10", now - timedelta(minutes=6))),
        (b"\xff", good),
    ]
    for body, headers in refused:
        assert ask(receiver, body, headers)[0] == 401, (body, headers)
    counts = json.loads(ask(receiver)[1])
    assert counts == {"verified": 0, "jobs": 0, "refused": len(refused)}


def test_the_receiver_takes_no_body_that_is_longer_than_a_job(receiver: str) -> None:
    assert ask(receiver, b"", {"Content-Length": str(1 << 40)})[0] == 413
