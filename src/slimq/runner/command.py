"""The `exec` runner: a batch is a process that gets lines and prints result lines.

The lines stand in a file in memory that is the process's stdin, so that no pipe can fill
up however the command reads. stdout and stderr are read as they come, bounded. The
process leads a group of its own; nothing of the group outlives the run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping

from slimq.core import status as statuses
from slimq.core.handler import Handler, bad_field
from slimq.core.job import Batch, Ran, Result
from slimq.core.lines import Reply, parse_reply
from slimq.core.limits import ARGV_MAX, OUTPUT_TAIL_MAX, RESULT_MAX, STDOUT_MAX

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
}
GRACE_S = 1.0  # between SIGTERM and SIGKILL
WORD_MAX = 32 * 1024
_READ = 1 << 16


class CommandRunner:
    """Runs commands with `environment` and nothing else of this process."""

    lang = "exec"

    def __init__(self, environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self._environment = dict(environment)

    def check(self, handler: Handler) -> None:
        words = handler.body
        if not isinstance(words, list) or not 1 <= len(words) <= ARGV_MAX:
            raise bad_field(
                "body", f"a list of 1 to {ARGV_MAX} words: the command and its arguments"
            )
        for index, word in enumerate(words):
            if not isinstance(word, str) or "\0" in word or len(word) > WORD_MAX:
                raise bad_field(
                    f"body[{index}]", f"text of at most {WORD_MAX} characters without NUL"
                )
        if not words[0]:
            raise bad_field("body[0]", "the name of a command")

    async def run(self, batch: Batch) -> Ran:
        words = batch.handler.body
        assert isinstance(words, list), "check saw to it"
        program = shutil.which(words[0], path=self._environment["PATH"])
        if program is None:
            return _all(batch, statuses.ERROR, f"command not found or not executable: {words[0]}")
        try:
            process = _Process(program, words, self._variables(batch), batch)
        except OSError as error:
            return _all(batch, statuses.ERROR, f"{words[0]} cannot be started: {error.strerror}")
        try:
            timed_out = await process.ended(batch.handler.options.timeout_ms / 1000)
        finally:
            await process.finish()
        return _judge(batch, process, timed_out)

    async def close(self) -> None:
        """Nothing outlives a run."""

    def _variables(self, batch: Batch) -> dict[str, str]:
        client, _, jobtype = batch.type.partition("/")
        variables = {
            "SLIMQ_TYPE": batch.type,
            "SLIMQ_CLIENT": client,
            "SLIMQ_JOBTYPE": jobtype,
            "SLIMQ_COUNT": str(len(batch.jobs)),
        }
        if len(batch.jobs) == 1:
            variables["SLIMQ_JOB_ID"] = batch.jobs[0].id
            variables["SLIMQ_ATTEMPT"] = str(batch.jobs[0].attempt)
        return self._environment | variables


class _Process:
    """One running command. `code` is its exit code, negative for a signal."""

    def __init__(
        self, program: str, words: list[str], variables: dict[str, str], batch: Batch
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fds: set[int] = set()
        self._done = asyncio.Event()
        self._out: list[bytes] = []
        self._out_size = 0
        self._tail = b""
        self.flooded = False
        self.code: int | None = None
        try:
            self._start(program, words, variables, batch)
        except BaseException:
            self._close_all()
            raise

    @property
    def stdout(self) -> bytes:
        return b"".join(self._out)

    @property
    def stderr(self) -> bytes:
        return self._tail[-OUTPUT_TAIL_MAX:]

    async def ended(self, timeout_s: float) -> bool:
        """Wait until the process ends; return whether its time was over before."""
        try:
            await asyncio.wait_for(self._done.wait(), timeout_s)
            return False
        except TimeoutError:
            self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._done.wait(), GRACE_S)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._done.wait()
        return True

    async def finish(self) -> None:
        """Leave nothing behind: the group is killed, the process reaped, all files closed."""
        self._signal(signal.SIGKILL)
        if self.code is None:
            while not self._done.is_set():  # a kill takes effect at once, but not in no time
                await asyncio.shield(asyncio.wait_for(self._done.wait(), 60))
        for fd in (self._stdout, self._stderr):
            self._drain(fd)
        self._close_all()

    def _start(
        self, program: str, words: list[str], variables: dict[str, str], batch: Batch
    ) -> None:
        stdin = self._own(os.memfd_create("stdin"))
        for job in batch.jobs:
            _write_all(stdin, job.data + b"\n")
        os.lseek(stdin, 0, os.SEEK_SET)
        self._stdout, out = map(self._own, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        self._stderr, err = map(self._own, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        for fd in (out, err):
            os.set_blocking(fd, True)
        dup = os.POSIX_SPAWN_DUP2
        self._pid = os.posix_spawn(
            program,
            words,
            variables,
            file_actions=[(dup, stdin, 0), (dup, out, 1), (dup, err, 2)],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGXFSZ],
        )
        for fd in (stdin, out, err):
            self._close(fd)
        self._pidfd = self._own(os.pidfd_open(self._pid))
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._stdout, self._on_output, self._stdout)
        self._loop.add_reader(self._stderr, self._on_output, self._stderr)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self._pid, 0)
        self.code = os.waitstatus_to_exitcode(status)
        self._done.set()

    def _on_output(self, fd: int) -> None:
        if not self._read(fd):
            self._loop.remove_reader(fd)

    def _read(self, fd: int) -> bool:
        """Take what is there; return False at the end."""
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return True
        self._keep(fd, data)
        return bool(data)

    def _keep(self, fd: int, data: bytes) -> None:
        if fd == self._stderr:
            self._tail = (self._tail + data)[-2 * OUTPUT_TAIL_MAX :]
        elif self._out_size < STDOUT_MAX:
            self._out.append(data)
            self._out_size += len(data)
        elif not self.flooded:
            self.flooded = True
            self._signal(signal.SIGKILL)

    def _drain(self, fd: int) -> None:
        """Take what the ended process left in a pipe; a stranger may hold the other end."""
        for _ in range(64):
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                return
            if not data:
                return
            self._keep(fd, data)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            pass  # the whole group has ended

    def _own(self, fd: int) -> int:
        self._fds.add(fd)
        return fd

    def _close(self, fd: int) -> None:
        self._fds.discard(fd)
        os.close(fd)

    def _close_all(self) -> None:
        for fd in list(self._fds):
            self._loop.remove_reader(fd)
            self._close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _all(batch: Batch, status: int, error: str) -> Ran:
    return Ran([Result(status, error=error) for _ in batch.jobs])


def _judge(batch: Batch, process: _Process, timed_out: bool) -> Ran:
    """Make results of what a process printed and how it ended."""
    assert process.code is not None, "the process was reaped"
    reply = parse_reply(process.stdout, len(batch.jobs))
    output = process.stderr
    if reply.extra:
        output += b"\n[%d result lines too many]" % reply.extra
    error, status = _reason(batch, process, timed_out)
    if batch.handler.options.result == "exit":
        return _by_exit(batch, process, reply, status, error, output)
    ended_badly = process.code != 0 or timed_out or process.flooded
    results: list[Result] = []
    suspects: list[int] = []
    for index, line in enumerate(reply.results):
        if line is not None:
            results.append(Result(line.status, line.text))
        elif ended_badly:
            suspects.append(index)
            crashed = status == statuses.CRASHED and len(batch.jobs) == 1
            results.append(Result(status, error=error, crashed=crashed))
        else:
            rule = "the command gave no result line, or a malformed one, for this job"
            results.append(Result(statuses.NO_RESULT, error=rule))
    died = bool(suspects) and len(batch.jobs) > 1
    return Ran(results, reply.children, output, died, suspects if died else [])


def _reason(batch: Batch, process: _Process, timed_out: bool) -> tuple[str, int]:
    options, code = batch.handler.options, process.code or 0
    if timed_out:
        return f"the command took longer than {options.timeout_ms} ms", statuses.TIMEOUT
    if process.flooded:
        return f"the command printed more than {STDOUT_MAX} bytes", statuses.ERROR
    if code in options.retry_on:
        return f"exit code {code}", statuses.RETRY_LATER
    if code in options.fail_on:
        return f"exit code {code}", statuses.FAILED
    status = statuses.status_of_exit(code)
    if code < 0:
        return f"the command was killed by signal {-code}", status
    return (f"exit code {code}" if code else "", status)


def _by_exit(
    batch: Batch, process: _Process, reply: Reply, status: int, error: str, output: bytes
) -> Ran:
    """The exit code is the result of every job, and all children are of the first."""
    alone = len(batch.jobs) == 1
    text = process.stdout.strip(b"\n")[:RESULT_MAX] if alone else b""
    crashed = status == statuses.CRASHED and alone
    results = [Result(status, text, error, crashed=crashed) for _ in batch.jobs]
    children = [[child for some in reply.children for child in some]]
    children += [[] for _ in batch.jobs[1:]]
    return Ran(results, children, output)
