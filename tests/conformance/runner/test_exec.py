"""What only commands can do to their runner."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from runner_kit import batch_of, id_of, on_loop, python, run_once

from slimq.core import status
from slimq.core.job import Batch, Ran
from slimq.core.limits import OUTPUT_TAIL_MAX, RESULT_MAX, STDOUT_MAX
from slimq.core.lines import ChildLine
from slimq.runner.command import DEFAULT_ENVIRONMENT, SYSID_VARIABLE, CommandRunner
from slimq.system.process import Child, SystemProcesses

OK_LINES = "import sys; n = len(sys.stdin.buffer.readlines()); print('200 ok\\n' * n, end='')\n"


def run(command: list[str], datas: list[bytes] | None = None, **written: Any) -> Ran:
    return run_once(CommandRunner(), batch_of("exec", command, datas or [b"x"], **written))


def statuses(ran: Ran) -> list[int]:
    return [result.status for result in ran.results]


# Nothing a command does with its pipes holds up the run.


def test_ten_megabytes_that_nobody_reads_hold_up_nothing() -> None:
    ran = run(python("print('200 ok\\n' * 10, end='')"), [b"x" * 2**20] * 10)
    assert statuses(ran) == [200] * 10


def test_stdin_closed_early_holds_up_nothing() -> None:
    ran = run(python("import os; os.close(0); print('200 ok')"), [b"x" * 2**20])
    assert statuses(ran) == [200]


def test_a_full_stderr_holds_up_nothing_and_its_tail_is_kept() -> None:
    noise = "sys.stderr.write('noise\\n' * 2_000_000); sys.stderr.write('the end\\n')"
    ran = run(python(OK_LINES + noise))
    assert statuses(ran) == [200]
    assert len(ran.output) == OUTPUT_TAIL_MAX
    assert ran.output.endswith(b"noise\nthe end\n")


def test_stdout_and_stderr_closed_early_end_no_run_and_cost_nothing() -> None:
    source = (
        "print('200 ok', flush=True); import os, time; os.close(1); os.close(2); time.sleep(.5)"
    )
    started, busy = time.monotonic(), time.process_time()
    ran = run(python(source))
    assert statuses(ran) == [200]
    assert time.monotonic() - started >= 0.5
    assert time.process_time() - busy < 0.25


def test_what_was_printed_right_before_the_exit_is_all_taken() -> None:
    source = (
        "import fcntl, os; fcntl.fcntl(1, 1031, 2**20)  # F_SETPIPE_SZ\n"
        "os.write(1, b'200 ok\\n' * 9_999 + b'#' * 400_000 + b'\\n200 last')"
    )

    async def watched_too_late() -> Ran:
        batch = batch_of("exec", python(source), [b""] * 10_000, batch_size=10_000)
        task = asyncio.create_task(CommandRunner().run(batch))
        await asyncio.sleep(0)  # it is spawned in its first step; then the loop stands still
        (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)
        return await task

    assert on_loop(watched_too_late).results[-1].text == b"last"


def test_the_bytes_behind_a_full_pipe_are_all_taken() -> None:
    ran = run(python("print('200 ok\\n' * 9999 + '200 last')"), [b""] * 10_000, batch_size=10_000)
    assert statuses(ran) == [200] * 10_000
    assert ran.results[-1].text == b"last"


# Whatever it leaves behind is killed or let go, and the run ends.


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not (its new parent may be slow to bury it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_dies(pid: int) -> None:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(pid)


BACKGROUND = """
import os, signal, sys
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    {in_background}
    os.write(writing, str(os.getpid()).encode())
    os.close(writing)
    signal.pause()
os.close(writing)
print('200', os.read(reading, 9).decode(), flush=True)
"""


def test_a_background_process_that_holds_stdout_is_killed_at_the_exit() -> None:
    started = time.monotonic()
    ran = run(python(BACKGROUND.format(in_background="pass")))
    assert time.monotonic() - started < 5
    assert statuses(ran) == [200]
    assert_dies(int(ran.results[0].text))


def test_a_daemon_of_its_own_session_that_holds_stdout_holds_up_nothing() -> None:
    daemonize = (
        "os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    )
    started = time.monotonic()
    ran = run(python(BACKGROUND.format(in_background=daemonize)))
    daemon = int(ran.results[0].text)
    try:
        assert time.monotonic() - started < 5
        assert statuses(ran) == [200]
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_ignoring_sigterm_is_no_escape() -> None:
    source = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('#', flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    ran = run(python(source), timeout="300ms")
    assert statuses(ran) == [status.TIMEOUT]
    assert 1.2 < time.monotonic() - started < 3


def test_a_stopped_command_is_no_escape() -> None:
    started = time.monotonic()
    ran = run(python("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"), timeout="100ms")
    assert statuses(ran) == [status.TIMEOUT]
    assert time.monotonic() - started < 3


def test_the_whole_group_gets_the_timeout() -> None:
    source = BACKGROUND.format(in_background="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    ran = run(python(source + "signal.pause()"), [b"1", b"2"], timeout="300ms")
    assert ran.results[0].status == 200
    assert_dies(int(ran.results[0].text))


def test_results_given_in_the_grace_after_sigterm_count() -> None:
    source = (
        "import signal, sys\n"
        "def end(*_): print('200 in time', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('#', flush=True); signal.pause()"
    )
    ran = run(python(source), timeout="400ms")
    assert statuses(ran) == [200]


def test_cancelling_kills_at_once_also_who_ignores_sigterm_and_floods_stderr(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    source = (
        "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').close()\n"
        "while True: os.write(2, b'x' * 65536)"
    )

    async def cancelled() -> float:
        batch = batch_of("exec", python(source, str(ready)), [b""], timeout="1h")
        task = asyncio.create_task(CommandRunner().run(batch))
        await asyncio.to_thread(ready.read_bytes)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    assert on_loop(cancelled) < 0.5


def test_cancelling_twice_still_buries_the_command() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(
            CommandRunner().run(batch_of("exec", ["sleep", "60"], [b""], timeout="1h"))
        )
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_loop(cancelled)  # the fixture looks for children and descriptors


# What it inherits.


def test_only_three_descriptors_are_open_even_beside_inheritable_ones() -> None:
    leaky, other = os.pipe()
    os.set_inheritable(leaky, True)
    try:
        ran = run(python("import os; print('200', sorted(map(int, os.listdir('/proc/self/fd'))))"))
    finally:
        os.close(leaky)
        os.close(other)
    assert ran.results[0].text == b"[0, 1, 2, 3]"  # 3 is the listing itself


def test_the_environment_is_what_was_given_and_the_batch() -> None:
    os.environ["SLIMQ_SECRET_CANARY"] = "not for handlers"
    source = "import os; print('200', sorted(os.environ.items()))"
    try:
        ran = run_once(
            CommandRunner({"PATH": "/bin", "COLOUR": "grün"}),
            batch_of("exec", python(source), [b""]),
        )
    finally:
        del os.environ["SLIMQ_SECRET_CANARY"]
    wanted = {
        "PATH": "/bin",
        "COLOUR": "grün",
        "SLIMQ_CLIENT": "acme",
        "SLIMQ_JOBTYPE": "mail",
        "SLIMQ_TYPE": "acme/mail",
        "SLIMQ_COUNT": "1",
        "SLIMQ_JOB_ID": id_of(0),
        "SLIMQ_ATTEMPT": "1",
    }
    # The bare interpreter adds LC_CTYPE (PEP 538).
    said = dict(eval(ran.results[0].text))
    said.pop("LC_CTYPE", None)
    assert said == wanted


def test_the_variables_that_the_protocol_names_are_those_that_there_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text("utf-8")
    section = page.partition("### What an `exec` handler receives")[2].partition("\n### ")[0]
    environment = DEFAULT_ENVIRONMENT | {SYSID_VARIABLE: "n0dEsYs1"}
    ran = run_once(CommandRunner(environment), batch_of("exec", ["env"], [b""], result="exit"))
    names = {line.partition("=")[0] for line in ran.results[0].text.decode().splitlines()}
    assert set(re.findall(r"`([A-Z_]+)`", section)) == names


def test_a_batch_of_several_names_no_single_job() -> None:
    source = "import os\nfor name in ('COUNT', 'JOB_ID'): print('200', os.getenv('SLIMQ_' + name))"
    ran = run(python(source), [b"", b""])
    assert [result.text for result in ran.results] == [b"2", b"None"]


def test_the_default_environment_has_a_path_and_nothing_of_the_daemon() -> None:
    ran = run(["env"], result="exit")
    names = {line.partition(b"=")[0] for line in ran.results[0].text.splitlines()}
    assert {name.decode() for name in names if not name.startswith(b"SLIMQ_")} == set(
        DEFAULT_ENVIRONMENT
    )


def test_signals_are_at_their_defaults_and_unblocked() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        ran = run(["cat", "/proc/self/status"], result="exit")
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    fields = dict(
        line.split(b":\t", 1) for line in ran.results[0].text.splitlines() if b":\t" in line
    )
    of_glibc = 0b11 << 31  # signals 32 and 33, its own: not seen by programs
    assert int(fields[b"SigIgn"], 16) & ~of_glibc == 0
    assert int(fields[b"SigBlk"], 16) == 0


def test_a_command_leads_a_session_of_its_own() -> None:
    ran = run(python("import os; print('200', os.getsid(0) == os.getpgrp() == os.getpid())"))
    assert ran.results[0].text == b"True"


def test_a_command_cannot_change_its_stdin() -> None:
    source = "import os\ntry: os.write(0, b'x')\nexcept OSError as error: print('200', error.errno)"
    assert run(python(source)).results[0].text == b"%d" % errno.EPERM


# How it may end.


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(0, 200), (1, 500), (64, 400), (65, 400), (66, 400), (75, 102), (70, 500), (255, 500)],
)
@pytest.mark.parametrize("result", ["exit", "lines"])
def test_the_exit_code_is_the_result(code: int, wanted: int, result: str) -> None:
    ran = run(["sh", "-c", f"exit {code}"], result=result)
    if result == "lines" and code == 0:
        wanted = status.NO_RESULT
    assert statuses(ran) == [wanted]
    assert bool(ran.results[0].error) is (wanted != 200)


@pytest.mark.parametrize("result", ["exit", "lines"])
def test_a_handler_may_give_exit_codes_another_meaning(result: str) -> None:
    options: dict[str, Any] = {"retry_on": [3], "fail_on": [4], "result": result}
    assert statuses(run(["sh", "-c", "exit 3"], **options)) == [status.RETRY_LATER]
    assert statuses(run(["sh", "-c", "exit 4"], **options)) == [status.FAILED]


def test_stdout_is_the_text_when_the_exit_code_is_the_result() -> None:
    ran = run(["printf", "# Title\nbody\n#J: bill|1\nend\n"], result="exit")
    assert ran.results[0].text == b"# Title\nbody\nend"
    assert ran.children == [[ChildLine("bill", b"1")]]


def test_the_text_is_bounded() -> None:
    ran = run(["head", "-c", "1000000", "/dev/zero"], result="exit")
    assert len(ran.results[0].text) == RESULT_MAX


def test_one_exit_code_is_the_result_of_the_whole_batch() -> None:
    ran = run(
        ["sh", "-c", "echo '#J: bill|1'; echo said; exit 65"],
        [b"1", b"2"],
        result="exit",
        batch_size=2,
    )
    assert statuses(ran) == [400, 400]
    assert ran.children == [[ChildLine("bill", b"1")], []]
    assert b"said" in ran.output
    assert not ran.died


def test_a_job_that_kills_its_command_alone_has_crashed() -> None:
    for result in ("lines", "exit"):
        ran = run(["sh", "-c", "kill -SEGV $$"], result=result)
        assert statuses(ran) == [status.CRASHED]
        assert ran.results[0].crashed
        assert ran.results[0].error == "killed by SIGSEGV"
        assert (ran.died, ran.suspects) == (True, [])


DIE_AT = """
import os, sys, time
for line in sys.stdin.buffer:
    if line == b'bad\\n':
        os.write(1, b'#J: bill|of the bad\\n200 cut of')
        {end}
    print('#J: bill|x\\n200 fine', flush=True)
"""
DATAS = [b"good", b"good", b"bad", b"good"]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("os.abort()", "killed by SIGABRT"),
        ("time.sleep(60)", "timed out after 500 ms"),
    ],
)
def test_of_a_batch_that_died_the_answered_jobs_keep_their_results(end: str, error: str) -> None:
    ran = run(python(DIE_AT.format(end=end)), DATAS, timeout="500ms")
    assert ran.died
    assert ran.suspects == [2, 3]
    assert statuses(ran)[:2] == [200, 200]
    assert [result.error for result in ran.results[2:]] == [error] * 2
    assert all(result.status >= 500 and not result.crashed for result in ran.results[2:])
    assert ran.children == [[ChildLine("bill", b"x")]] * 2 + [[], []]


def test_a_non_zero_exit_without_all_results_makes_suspects_with_a_provisional_error() -> None:
    ran = run(["sh", "-c", "echo 200; exit 75"], [b"1", b"2", b"3"])
    assert ran.died
    assert ran.suspects == [1, 2]
    assert statuses(ran) == [200, 500, 500]


def test_a_non_zero_exit_behind_all_results_changes_nothing() -> None:
    ran = run(["sh", "-c", "echo 200; echo 404; exit 1"], [b"1", b"2"])
    assert statuses(ran) == [200, 404]
    assert not ran.died


def test_a_job_with_a_result_has_not_crashed_its_command() -> None:
    ran = run(["sh", "-c", "echo 200 done; kill -SEGV $$"])
    assert statuses(ran) == [200]
    assert not ran.results[0].crashed


def test_a_command_that_prints_too_much_is_killed() -> None:
    ran = run(python("import os\nwhile True: os.write(1, b'#' * 65536)"))
    assert statuses(ran) == [status.ERROR]
    assert str(STDOUT_MAX) in ran.results[0].error
    assert (ran.died, ran.suspects) == (True, [])


# What cannot be started.


def test_a_command_that_does_not_exist_is_an_error_that_names_it() -> None:
    for command in ("no-such-command", "/no/such/command"):
        ran = run([command], [b"1", b"2"])
        assert statuses(ran) == [status.ERROR] * 2
        assert command in ran.results[0].error
        assert not ran.died


def test_what_is_not_a_program_is_an_error_that_says_why(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("echo 200\n")
    assert "Permission denied" in run([str(plain)]).results[0].error
    plain.chmod(0o755)
    assert "#!" in run([str(plain)]).results[0].error
    plain.write_text("#!/no/such/interpreter\n")
    assert "interpreter" in run([str(plain)]).results[0].error
    assert "Permission denied" in run([str(tmp_path)]).results[0].error


class NoDescriptors:
    """Processes of a machine that has run out of descriptors."""

    def spawn(
        self, program: bytes, argv: list[bytes], environment: Mapping[bytes, bytes], stdin: bytes
    ) -> Child:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_shortage_of_the_machine_costs_the_jobs_no_failure() -> None:
    ran = run_once(
        CommandRunner(processes=NoDescriptors()), batch_of("exec", ["true"], [b"1", b"2"])
    )
    assert statuses(ran) == [status.RETRY_LATER] * 2


def test_a_spawn_that_fails_leaves_no_descriptor() -> None:
    for _ in range(20):
        with pytest.raises(OSError, match="No such file"):
            SystemProcesses().spawn(b"/no/such", [b"x"], {}, b"")


def test_five_hundred_runs_leave_no_child_and_no_descriptor() -> None:
    async def many() -> list[Ran]:
        runner = CommandRunner()
        batch: Batch = batch_of("exec", ["true"], [b""], result="exit")

        async def in_turn() -> list[Ran]:
            return [await runner.run(batch) for _ in range(125)]

        return [
            ran for some in await asyncio.gather(*(in_turn() for _ in range(4))) for ran in some
        ]

    assert [statuses(ran) for ran in on_loop(many)] == [[200]] * 500
