"""The runner of lang ``exec``: a command gets the lines of a batch on stdin.

The command is a list of words, never a line for a shell. It runs in a session of its
own, in the folder slimq was started in, with nothing inherited but a fixed environment:

    SLIMQ_SYSID   SLIMQ_CLIENT  SLIMQ_JOBTYPE  SLIMQ_TYPE  SLIMQ_COUNT    always
    SLIMQ_JOB_ID  SLIMQ_ATTEMPT                             when the batch is one job

A process that makes a session of its own (a daemon) leaves the group and is not killed
with it; it holds nothing of the run. By SLIMQ_SYSID the next node finds, and kills, what a
node that was killed left running.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping

from slimq.core import status
from slimq.core.handler import Handler, bad_field
from slimq.core.job import Batch, Ran, Result
from slimq.core.limits import ARGV_BYTES_MAX, ARGV_MAX, STDOUT_MAX
from slimq.runner.answer import bounded, same_for_all
from slimq.runner.command_run import CommandRun
from slimq.runner.command_verdict import judge
from slimq.system.process import Processes, SystemProcesses

DEFAULT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
}

SYSID_VARIABLE = "SLIMQ_SYSID"  # the node that started a command

# What the machine is short of, not what the command did: it costs no failure.
_SHORTAGES = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC}


class CommandRunner:
    """Runs commands (see `Runner`). Raises ValueError for an impossible environment."""

    def __init__(
        self,
        environment: Mapping[str, str] = DEFAULT_ENVIRONMENT,
        *,
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes or SystemProcesses()
        self._environment = _encoded(environment)
        self._path = environment.get("PATH", "").split(":")

    def check(self, handler: Handler) -> None:
        words = handler.body
        if not isinstance(words, list) or not 1 <= len(words) <= ARGV_MAX:
            raise bad_field("body", f"the command as a list of 1 to {ARGV_MAX} words")
        total = sum(_check_word(f"body[{index}]", word) for index, word in enumerate(words))
        if total > ARGV_BYTES_MAX:
            raise bad_field("body", f"at most {ARGV_BYTES_MAX} bytes in all words together")

    async def run(self, batch: Batch) -> Ran:
        assert isinstance(batch.handler.body, list)
        count, options = len(batch.jobs), batch.handler.options
        argv = [word.encode() for word in batch.handler.body]
        stdin = b"\n".join([job.data for job in batch.jobs]) + b"\n"
        try:
            program = self._find(batch.handler.body[0])
            child = self._processes.spawn(program, argv, self._environment_of(batch), stdin)
        except OSError as error:
            return _not_started(batch.handler.body[0], count, error)
        run = CommandRun(child, asyncio.get_running_loop(), STDOUT_MAX)
        return judge(await run.end(options.timeout_ms / 1000), count, options)

    async def close(self) -> None:
        """Nothing is kept between runs."""

    def _find(self, name: str) -> bytes:
        """Return the path of a program, by the PATH that the command itself will see."""
        if "/" in name:
            return name.encode()
        for folder in self._path:
            path = os.path.join(folder, name)  # noqa: PTH118 -- a Path costs a batch 40 µs
            if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113
                return path.encode()
        raise FileNotFoundError(errno.ENOENT, _NOT_FOUND)

    def _environment_of(self, batch: Batch) -> dict[bytes, bytes]:
        client, _, jobtype = batch.type.encode().partition(b"/")
        environment = self._environment | {
            b"SLIMQ_CLIENT": client,
            b"SLIMQ_JOBTYPE": jobtype,
            b"SLIMQ_TYPE": batch.type.encode(),
            b"SLIMQ_COUNT": b"%d" % len(batch.jobs),
        }
        if len(batch.jobs) == 1:
            environment[b"SLIMQ_JOB_ID"] = batch.jobs[0].id.encode()
            environment[b"SLIMQ_ATTEMPT"] = b"%d" % batch.jobs[0].attempt
        return environment


def _check_word(field: str, word: object) -> int:
    """Return the length of a word in bytes; raise BadHandler when it is none."""
    if not isinstance(word, str) or not word or "\0" in word:
        raise bad_field(field, "a string that is not empty and has no NUL")
    try:
        return len(word.encode()) + 1
    except UnicodeEncodeError:
        raise bad_field(field, "valid Unicode") from None


def _encoded(environment: Mapping[str, str]) -> dict[bytes, bytes]:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"environment of commands: {name!r} cannot be set")
    return {name.encode(): value.encode() for name, value in environment.items()}


def _not_started(name: str, count: int, error: OSError) -> Ran:
    short = error.errno in _SHORTAGES
    code = status.RETRY_LATER if short else status.ERROR
    text = bounded(f"cannot start {name!r}: {_reason(error)}")
    results = same_for_all(count, Result(code, error=text))
    return Ran(results, [[] for _ in range(count)])


_NOT_FOUND = "command not found"


def _reason(error: OSError) -> str:
    said = error.strerror or str(error)
    if error.errno == errno.ENOEXEC:
        return f"{said} (a script needs a #! line)"
    if error.errno == errno.ENOENT and said != _NOT_FOUND:
        return f"{said} (it, or the interpreter that its #! line names)"
    return said
