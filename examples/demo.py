"""The main job of slimq on real input, from an empty folder to exit code 0: `make demo`.

It starts a node and the receiver, puts a command and a URL as handlers, adds one line for
each of many files of this machine, waits until all jobs are done, asks for every single one
and compares its result with what is computed here, and lets the node drain. A check that
fails is named, the logs are kept, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import json
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from child import Child
from machine_files import File, choose

EXAMPLES = Path(__file__).resolve().parent
LINES_PER_REQUEST = 2000
BATCH = 500
SAMPLE_EVERY = 40  # which of the files the receiver and the function get, too
CONTENT_MAX = 64 * 1024  # bytes of a file that the function gets: a sandbox shows it no file
STALL_S = 60.0
CHANGED_MAX = 0.01  # which part of the files may change while the demo runs
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy


class Job(NamedTuple):
    """What the node accepted."""

    id: str
    jobtype: str
    file: File

    def right_result(self) -> str | None:
        """Return what the result must be; None when the file has changed meanwhile."""
        if self.jobtype == "sample":
            return hashlib.sha256(self.file.line).hexdigest()
        whole = self.file.hash()
        if self.jobtype == "content" and whole is not None:
            return hashlib.sha256(content_of(self.file)).hexdigest()
        return whole


def content_of(file: File) -> bytes:
    """Return the first bytes of a file; none of one that cannot be read any more."""
    try:
        with file.path.open("rb") as stream:
            return stream.read(CONTENT_MAX)
    except OSError:
        return b""


class Checked(NamedTuple):
    """What became of the accepted jobs, and what is wrong with them."""

    done: int
    failed: int
    changed: int
    faults: list[str]


class Screen:
    """Shows progress: on a terminal one line written anew, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._shown = time.monotonic()

    def show(self, text: str) -> None:
        now = time.monotonic()
        if now > self._shown + (0.05 if self._live else 2.0):
            self._shown = now
            print(f"\r\x1b[K{text}" if self._live else f"{text}\n", end="", flush=True)

    def say(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)


def call(method: str, url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, method=method)
    with DIRECT.open(request, timeout=60) as answer:
        return json.load(answer)


# --- the main job ------------------------------------------------------------------------


def put_handlers(node: str, receiver: str, screen: Screen) -> tuple[str, ...]:
    """Return the jobtypes that run here."""
    command = [sys.executable, str(EXAMPLES / "hash_lines.py")]
    options = {"batch_size": BATCH, "max_failures": 3}  # who watches wants to know soon
    hash_ = {"lang": "exec", "body": command, "options": options}
    call("PUT", f"{node}/handlers/hash", json.dumps(hash_).encode())
    call("PUT", f"{node}/handlers/sample", b'{"lang": "http", "body": "%s/"}' % receiver.encode())
    sandbox = call("GET", f"{node}/status")["node"]["sandbox"]
    if not sandbox["ready"]:
        screen.say(f"no functions here: {sandbox['lacking']}; {sandbox['advice']}")
        return "hash", "sample"
    source = (EXAMPLES / "functions" / "hash_content.py").read_bytes()
    call("PUT", f"{node}/handlers/content?lang=python", source)
    return "hash", "sample", "content"


def add(node: str, jobtypes: tuple[str, ...], files: list[File], screen: Screen) -> list[Job]:
    """Add a job for each file, and for some of them one for each other jobtype."""
    jobs: list[Job] = []
    for jobtype in jobtypes:
        chosen = files if jobtype == "hash" else files[::SAMPLE_EVERY]
        for index in range(0, len(chosen), LINES_PER_REQUEST):
            part = chosen[index : index + LINES_PER_REQUEST]
            body = b"".join(line_of(jobtype, file) + b"\n" for file in part)
            ids = call("POST", f"{node}/add?jobtype={jobtype}&ids=all", body)["ids"]
            jobs += [Job(id_, jobtype, file) for id_, file in zip(ids, part, strict=True)]
            screen.show(f"accepted {len(jobs)}, done {done_count(node)}")
    return jobs


def line_of(jobtype: str, file: File) -> bytes:
    return base64.b64encode(content_of(file)) if jobtype == "content" else file.line


def wait(node: str, count: int, started: float, screen: Screen) -> None:
    """Return when `count` jobs are done."""
    done, moved = 0, time.monotonic()
    while done < count:
        before, done, now = done, done_count(node), time.monotonic()
        screen.show(f"accepted {count}, done {done}, {done / (now - started):.0f} jobs/s")
        if done > before:
            moved = now
        elif now > moved + STALL_S:
            raise RuntimeError(f"{done} of {count} jobs are done, and no other in {STALL_S:.0f} s")
        time.sleep(0.05)


def done_count(node: str) -> int:
    types = call("GET", f"{node}/types?client=main")["types"]
    return sum(type_["ok"] + type_["failed"] + type_["error"] for type_ in types)


def drain(node: str, process: Child) -> None:
    call("POST", f"{node}/quit")
    if process.exit_code(60) != 0:
        raise RuntimeError("the node must end with exit code 0, within 60 s")


# --- the checks --------------------------------------------------------------------------


def check_jobs(node: str, jobs: list[Job], screen: Screen) -> Checked:
    """Ask for every job: it must be done, succeeded, and its result must be right."""
    done = failed = changed = 0
    faults = []
    for number, (job, shown) in enumerate(zip(jobs, look_up(node, jobs), strict=True), 1):
        screen.show(f"checked {number} of {len(jobs)}")
        right = job.right_result()
        done += shown.get("state") == "done"
        failed += shown.get("outcome") != "ok"
        changed += right is None
        if shown.get("outcome") != "ok":
            faults.append(f"{job.id} ({job.file.path}) is no success: {shown}")
        elif right not in (None, shown.get("result")):
            faults.append(f"{job.id} ({job.file.path}) is wrong: {shown}; right is {right}")
    if len({job.id for job in jobs}) < len(jobs):
        faults.append("several jobs have the same id")
    if changed > CHANGED_MAX * len(jobs):
        faults.append(f"{changed} files changed meanwhile: too many to call this a check")
    return Checked(done, failed, changed, faults)


def look_up(node: str, jobs: list[Job]) -> Iterator[Any]:
    """Yield each job as the node shows it; one connection serves all the questions."""
    connection = http.client.HTTPConnection(node.removeprefix("http://"), timeout=60)
    for job in jobs:
        connection.request("GET", f"/jobs/{job.id}")
        yield json.load(connection.getresponse())
    connection.close()


def check_receiver(receiver: str, sample: int) -> list[str]:
    """It must have verified a request for each of its jobs, and refuse what nobody signed."""
    faults = []
    try:
        DIRECT.open(receiver, b"forged", timeout=60).close()
        faults.append("the receiver took a request that nobody signed")
    except urllib.error.HTTPError as refusal:
        refusal.close()
    counts = call("GET", receiver)
    if counts["jobs"] != sample or counts["refused"] != 1:
        faults.append(f"the receiver must have verified {sample} jobs and refused 1: {counts}")
    return faults


# --- from the start to the end -----------------------------------------------------------


def demo(count: int, folder: Path, screen: Screen) -> None:
    screen.say(f"looking for {count} files")
    files = choose(count)
    size = sum(file.size for file in files)
    few = f" (not {count}: it has no more)" if len(files) < count else ""
    screen.say(f"chose {len(files)} files of this machine{few}, {size / 1e6:.0f} MB")
    data, receiver_py = folder / "data", str(EXAMPLES / "receiver.py")
    serve = ["-m", "slimq", "serve", "--port", "0", "--data", str(data)]
    receive = [receiver_py, str(data / "webhook.secret"), "--port", "0"]
    with Child(serve, folder, "node.log") as node_process:
        node = node_process.address()  # then it has made its secret, too
        with Child(receive, folder, "receiver.log") as receiver_process:
            receiver = receiver_process.address()
            screen.say(f"started a node on {node} and a receiver on {receiver}")
            jobtypes = put_handlers(node, receiver, screen)
            prove(node, receiver, jobtypes, files, screen)
            drain(node, node_process)
    screen.say("the node drained and ended with 0")


def prove(
    node: str, receiver: str, jobtypes: tuple[str, ...], files: list[File], screen: Screen
) -> None:
    """Run the main job, check what came of it, and tell."""
    started = time.monotonic()
    jobs = add(node, jobtypes, files, screen)
    wait(node, len(jobs), started, screen)
    seconds = time.monotonic() - started
    done, failed, changed, faults = check_jobs(node, jobs, screen)
    sample = len(files[::SAMPLE_EVERY])
    faults += check_receiver(receiver, sample)
    screen.say(f"  {len(files):6} by a command, {BATCH} at a time: SHA-256 of the file")
    screen.say(f"  {sample:6} by a URL, one by one, signed: SHA-256 of the line")
    if "content" in jobtypes:
        screen.say(f"  {sample:6} by a function, in a sandbox: SHA-256 of the content")
    if changed:
        screen.say(f"  {changed:6} of the files changed meanwhile: not compared")
    if not faults:
        screen.say("every job is done, and every result is the one computed here")
    screen.say(
        f"accepted {len(jobs)} done {done} failed {failed} in {seconds:.1f} s, "
        f"{len(jobs) / seconds:.0f} jobs/s, from the first request to the last job done"
    )
    if faults:
        raise RuntimeError("\n  ".join([f"{len(faults)} checks failed:", *faults[:5]]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the main job of slimq on real input.")
    parser.add_argument("--files", type=int, default=20_000, help="how many (default 20000)")
    count = parser.parse_args().files
    if count < 1:
        parser.error("--files: at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="slimq-demo-"))
    try:
        demo(count, folder, Screen())
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        return 130
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        what = "" if isinstance(error, RuntimeError) else "a request was not answered: "
        print(f"demo: {what}{error}", file=sys.stderr)
        if any(folder.iterdir()):
            print(f"the logs and the data are kept in {folder}", file=sys.stderr)
        else:
            folder.rmdir()
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
