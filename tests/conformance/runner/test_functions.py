"""What only functions can do to their runner: contexts that are kept, die, and lie."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from function_kit import (
    children,
    errors,
    is_gone,
    run,
    run_in_parts,
    statuses,
    texts,
    until,
    with_runner,
)
from runner_kit import FunctionBench, id_of

from slimq.core import status
from slimq.core.job import Ran
from slimq.core.limits import OUTPUT_TAIL_MAX, RESULT_MAX
from slimq.core.lines import ChildLine
from slimq.core.status import Outcome, outcome_of
from slimq.errors import BadHandler
from slimq.runner.function import FunctionRunner

PID = "import os\ndef handler(event, context): return str(os.getpid())\n"


# Contexts are kept, and never shared.


def test_a_context_is_used_again_by_its_own_client_and_version_and_by_no_other(
    functions: FunctionBench,
) -> None:
    async def work(runner: FunctionRunner) -> list[str]:
        said = []
        for changes in ({}, {}, {"client": "other"}, {}, {"version": 2}, {"version": 2}):
            ran = await runner.run(functions.of(PID, [b"x"], **changes))
            said += texts(ran)
        assert runner.facts()["starts"]["cold"] == 3
        assert runner.facts()["starts"]["warm"] == 3
        return said

    first, again, other, back, newer, newest = with_runner(functions, work)
    assert first == again == back
    assert newer == newest
    assert len({first, other, newer}) == 3


def test_the_contexts_of_an_older_version_are_closed_when_a_newer_one_is_run(
    functions: FunctionBench,
) -> None:
    async def work(runner: FunctionRunner) -> None:
        for version in (1, 2):
            await runner.run(functions.of(PID, [b"x"], version=version))
        assert runner.facts()["contexts"]["idle"] == 1

    with_runner(functions, work)


def test_what_a_function_keeps_in_its_module_is_there_for_the_next_batch(
    functions: FunctionBench,
) -> None:
    source = "n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n\n"

    async def work(runner: FunctionRunner) -> list[str]:
        return [texts(await runner.run(functions.of(source, [b"x"])))[0] for _ in range(3)]

    assert with_runner(functions, work) == ["1", "2", "3"]


def test_another_context_is_started_only_when_those_that_run_stay_busy(
    functions: FunctionBench,
) -> None:
    source = (
        "import os, time\n"
        "def handler(event, context):\n    time.sleep(float(event))\n    return str(os.getpid())\n"
    )

    async def work(runner: FunctionRunner) -> list[int]:
        started = []
        for seconds in (b"0.001", b"0.2"):
            await runner.run(functions.of(source, [b"0"]))  # one is warm
            batches = [functions.of(source, [seconds]) for _ in range(3)]
            await asyncio.gather(*map(runner.run, batches))
            started.append(runner.facts()["starts"]["cold"])
        return started

    assert with_runner(functions, work) == [1, 3]


def test_contexts_beyond_the_memory_of_all_go_by_the_longest_rest(
    functions: FunctionBench,
) -> None:
    async def work(runner: FunctionRunner) -> None:
        pids = {}
        for client in ("first", "second", "first", "third"):
            ran = await runner.run(functions.of(PID, [b"x"], client=client))
            pids.setdefault(client, texts(ran))
        assert runner.facts()["ends"]["evicted"] == 1
        again = await runner.run(functions.of(PID, [b"x"], client="first"))
        assert texts(again) == pids["first"]  # it was second that had to go
        assert runner.facts()["starts"]["cold"] == 3

    async def taken(runner: FunctionRunner) -> int:
        source = "def handler(event, context): return open('/proc/self/statm').read().split()[1]"
        ran = await runner.run(functions.of(source, [b"x"]))
        return os.sysconf("SC_PAGE_SIZE") * int(texts(ran)[0])

    two = int(2.9 * max(with_runner(functions, taken), 8 << 20))
    with_runner(functions, work, memory_max=two)


def test_a_context_without_work_ends_after_its_time(functions: FunctionBench) -> None:
    async def work(runner: FunctionRunner) -> None:
        (pid,) = texts(await runner.run(functions.of(PID, [b"x"])))
        assert runner.facts()["contexts"]["idle"] == 1
        await until(lambda: not Path("/proc", pid).exists())
        assert runner.facts()["contexts"]["idle"] == 0

    with_runner(functions, work, idle_s=0.05)


def test_a_context_that_grew_is_not_kept(functions: FunctionBench) -> None:
    source = PID + "kept = []\ndef grow(event, context): kept.append(b'x' * (30 << 20))\n"

    async def work(runner: FunctionRunner) -> None:
        batch = functions.of(source, [b"x"], handler="grow", memory="64MiB")
        await runner.run(batch)
        assert runner.facts()["ends"]["recycled"] == 1
        assert runner.facts()["contexts"]["idle"] == 0

    with_runner(functions, work)


def test_a_context_that_died_at_rest_costs_the_next_batch_nothing(
    functions: FunctionBench,
) -> None:
    async def work(runner: FunctionRunner) -> Ran:
        (pid,) = texts(await runner.run(functions.of(PID, [b"x"])))
        os.kill(int(pid), signal.SIGKILL)
        # At once: the node has not heard of it, and hands the batch to the dead.
        return await runner.run(functions.of(PID, [b"x"]))

    assert statuses(with_runner(functions, work)) == [200]


def test_the_cell_of_a_context_is_what_the_handler_asked_for(functions: FunctionBench) -> None:
    limits = {"memory": "128MiB", "processes": 3, "tmp": "2MiB", "network": True}
    run(functions, PID, client="acme", **limits)
    (cell,) = functions.cells
    assert (cell.client, cell.memory_bytes, cell.processes) == ("acme", 128 << 20, 3)
    assert (cell.tmp_bytes, cell.network, cell.descriptors) == (2 << 20, True, 6)


def test_without_a_sandbox_nothing_is_started_and_no_job_is_to_blame(
    functions: FunctionBench,
) -> None:
    class Refusing:
        def launch(self, *_: object) -> Any:
            raise OSError("there is no sandbox")

    functions.sandbox = Refusing()
    ran = run(functions, PID, b"1", b"2")
    assert statuses(ran) == [status.RETRY_LATER] * 2
    assert "there is no sandbox" in ran.results[0].error


# What a job says.


def test_what_is_returned_is_the_result(functions: FunctionBench) -> None:
    source = """
SAID = {b"none": None, b"bytes": b"\\xff\\n", b"text": "two\\nlines", b"json": {"a": [1, None]},
        b"status": (201, "made"), b"bare": (204, None), b"long": "x" * 100_000, b"int": 404}
def handler(event, context): return SAID[event]
"""
    names = [b"none", b"bytes", b"text", b"json", b"status", b"bare", b"long", b"int"]
    ran = run(functions, source, *names)
    assert statuses(ran) == [200, 200, 200, 200, 201, 204, 200, 200]
    assert [result.text for result in ran.results] == [
        b"",
        b"\xff\n",
        b"two\nlines",
        b'{"a":[1,null]}',
        b"made",
        b"",
        b"x" * RESULT_MAX,
        b"404",
    ]


def test_an_exception_is_an_error_of_its_job_with_the_lines_of_the_function(
    functions: FunctionBench,
) -> None:
    files = {
        "main.py": "import helper\ndef handler(event, context): return helper.half(int(event))\n",
        "helper.py": "def half(number):\n    return 1 // number\n",
    }
    ran = run(functions, files, b"1", b"0", b"1")
    assert statuses(ran) == [200, 500, 200]
    assert errors(ran) == ["", "ZeroDivisionError: integer division or modulo by zero", ""]
    trace = texts(ran)[1]
    assert 'File "main.py", line 2, in handler' in trace
    assert 'File "helper.py", line 2, in half' in trace
    assert "python_context" not in trace


@pytest.mark.parametrize("gone", ["sys.exit(1)", "raise KeyboardInterrupt", "raise GeneratorExit"])
def test_leaving_by_an_exception_that_is_none_is_an_error_of_its_job(
    functions: FunctionBench, gone: str
) -> None:
    source = f"import sys\ndef handler(event, context):\n    if event == b'x': {gone}\n"
    assert statuses(run(functions, source, b"a", b"x", b"b")) == [200, 500, 200]


def test_a_function_says_not_now_and_never(functions: FunctionBench) -> None:
    source = """
def handler(event, context):
    if event == b"later": raise context.Retry("busy", after=90)
    if event == b"soon": raise context.Retry
    raise context.Failed("no such address")
"""
    ran = run(functions, source, b"later", b"soon", b"never")
    assert statuses(ran) == [102, 102, 400]
    assert texts(ran) == ["busy", "", "no such address"]
    assert [result.retry_after_ms for result in ran.results] == [90_000, None, None]


def test_what_is_printed_is_log_and_can_forge_neither_result_nor_child(
    functions: FunctionBench,
) -> None:
    source = (
        "import os\ndef handler(event, context):\n"
        "    print('500 forged\\n#J: bill|forged', flush=True)\n"
        "    os.write(2, b'#J: bill|forged\\n'); return 'mine'\n"
    )
    ran = run(functions, source)
    assert (statuses(ran), texts(ran), ran.children) == ([200], ["mine"], [[]])
    assert ran.output == b"500 forged\n#J: bill|forged\n#J: bill|forged\n"


def test_the_tail_of_the_log_of_each_run_is_its_own(functions: FunctionBench) -> None:
    source = "def handler(event, context): print(event.decode() * 40_000)\n"

    async def work(runner: FunctionRunner) -> list[bytes]:
        return [(await runner.run(functions.of(source, [each]))).output for each in (b"ab", b"c")]

    first, second = with_runner(functions, work)
    assert first == (b"ab" * 40_000 + b"\n")[-OUTPUT_TAIL_MAX:]
    assert second == b"c" * 40_000 + b"\n"


def test_a_job_adds_jobs_also_when_a_later_one_kills_its_context(
    functions: FunctionBench,
) -> None:
    source = (
        "import os\ndef handler(event, context):\n"
        "    context.enqueue('bill', {'for': event.decode()})\n"
        "    if event == b'x': os.abort()\n"
    )
    ran = run(functions, source, b"a", b"x")
    assert ran.children == [[ChildLine("bill", b'{"for":"a"}')], []]
    assert (statuses(ran)[0], ran.suspects) == (200, [1])


@pytest.mark.parametrize("call", ["'not legal', 'x'", "'a', 'two\\nlines'", "'a', object()", "1"])
def test_what_can_be_no_job_is_not_added(functions: FunctionBench, call: str) -> None:
    ran = run(functions, f"def handler(event, context): context.enqueue({call})\n")
    assert ran.children == [[]]
    assert outcome_of(statuses(ran)[0]) is Outcome.ERROR


def test_a_handler_of_batches_says_which_job_a_child_is_of(functions: FunctionBench) -> None:
    source = "def handle_batch(events, context): context.enqueue('bill', b'')\n"
    assert statuses(run(functions, source, b"1")) == [200]
    ran = run(functions, source, b"1", b"2", version=2)
    assert statuses(ran) == [500, 500]
    assert "context.jobs[n].enqueue" in ran.results[0].error


def test_a_job_can_be_read_as_json_or_is_bytes(functions: FunctionBench) -> None:
    source = "def handler(event, context): return type(event).__name__\n"
    datas = [b'{"a": 1}', b"[1]", b"nonsense", b"\xff", b"[" * 100_000]
    ran = run(functions, source, *datas, event="json")
    assert texts(ran) == ["dict", "list", "bytes", "bytes", "bytes"]
    assert texts(run(functions, source, b"[1]")) == ["bytes"]


def test_the_context_has_what_lambda_has(functions: FunctionBench) -> None:
    source = """
def handler(event, context):
    assert 0 < context.get_remaining_time_in_millis() <= 5000
    assert context.invoked_function_arn.endswith(":mail")
    return [context.aws_request_id, context.function_name, context.function_version,
            context.memory_limit_in_mb, context.attempt, context.client]
"""
    ran = run(functions, source, b"a", b"b", memory="128MiB", timeout="5s", version=7)
    assert texts(ran)[1] == f'["{id_of(1)}","mail","7",128,2,"acme"]'


# Handlers that were written for SQS.

SQS = """
def lambda_handler(event, context):
    failed = [{"itemIdentifier": each["messageId"]} for each in event["Records"]
              if each["body"] == "bad"]
    return {"batchItemFailures": failed}
"""


def test_an_sqs_handler_fails_the_messages_that_it_names(functions: FunctionBench) -> None:
    ran = run(functions, SQS, b"a", b"bad", b"c", event="sqs")
    assert statuses(ran) == [200, 500, 200]
    assert "batchItemFailures" in ran.results[1].error


@pytest.mark.parametrize(
    "answer",
    [
        "{'batchItemFailures': [{'itemIdentifier': 'another'}]}",
        "{'batchItemFailures': [{'itemIdentifier': None}]}",
        "{'batchItemFailures': [{'id': 'x'}]}",
        "{'batchItemFailures': ['x']}",
        "1 / 0",
    ],
)
def test_an_sqs_handler_that_raises_or_names_no_message_fails_all(
    functions: FunctionBench, answer: str
) -> None:
    ran = run(functions, f"def handler(event, context): return {answer}\n", b"a", b"b", event="sqs")
    assert {outcome_of(each) for each in statuses(ran)} == {Outcome.ERROR}


@pytest.mark.parametrize("answer", ["None", "{}", "{'batchItemFailures': []}", "'anything'"])
def test_an_sqs_handler_that_names_nothing_did_all(functions: FunctionBench, answer: str) -> None:
    ran = run(functions, f"def handler(event, context): return {answer}\n", b"a", b"b", event="sqs")
    assert statuses(ran) == [200, 200]


def test_an_sqs_record_has_what_a_message_has(functions: FunctionBench) -> None:
    source = """
import hashlib
def lambda_handler(event, context):
    for record in event["Records"]:
        assert record["eventSource"] == "aws:sqs"
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
        assert record["attributes"]["ApproximateReceiveCount"] == record["body"]
        assert int(record["attributes"]["SentTimestamp"]) > 0
"""
    assert statuses(run(functions, source, b"1", b"2", event="sqs")) == [200, 200]


# Hooks.


def test_hooks_run_once_for_a_context_and_around_each_batch(functions: FunctionBench) -> None:
    source = """
def before(context): print("before", context.client)
def before_batch(context): print("before batch of", len(context.jobs))
def after_batch(context): print("after batch")
def handler(event, context): print("job")
"""

    async def work(runner: FunctionRunner) -> list[bytes]:
        return [(await runner.run(functions.of(source, [b"x"] * n))).output for n in (2, 1)]

    first, second = with_runner(functions, work)
    assert first == b"before acme\nbefore batch of 2\njob\njob\nafter batch\n"
    assert second == b"before batch of 1\njob\nafter batch\n"


@pytest.mark.parametrize("hook", ["before", "before_batch", "after_batch"])
@pytest.mark.parametrize("failing", ["1 / 0", "os._exit(3)", "os.abort()"])
def test_a_hook_that_fails_or_dies_costs_nobody_a_failure(
    functions: FunctionBench, hook: str, failing: str
) -> None:
    source = f"import os\ndef {hook}(context): {failing}\ndef handler(event, context): pass\n"
    ran = run(functions, source, b"1", b"2")
    assert statuses(ran) == [status.RETRY_LATER] * 2
    assert all(errors(ran))
    assert not ran.suspects


def test_what_after_batch_did_not_complete_is_not_done(functions: FunctionBench) -> None:
    source = """
def after_batch(context): raise OSError("no commit")
def handler(event, context):
    if event == b"failed": raise context.Failed("as it is")
"""
    ran = run(functions, source, b"ok", b"failed")
    assert statuses(ran) == [status.RETRY_LATER, 400]
    assert errors(ran)[0] == "after_batch failed: OSError: no commit"


def test_a_death_before_after_batch_undoes_the_results_before_it(
    functions: FunctionBench,
) -> None:
    source = (
        "import os\ndef after_batch(context): pass\n"
        "def handler(event, context):\n    if event == b'x': os.abort()\n"
    )
    ran = run(functions, source, b"a", b"x", b"b")
    assert ran.suspects == [1, 0, 2]


# Deaths: the guilty job alone errs, and nothing runs twice but what was not finished.


def counting(path: Path, deadly: str) -> str:
    """Return a function that writes down each of its runs, and dies of ``x``."""
    return (
        "import os, time, signal, sys\n"
        "def handler(event, context):\n"
        f"    with open({str(path)!r}, 'ab') as file: file.write(event + b'\\n')\n"
        f"    if event.startswith(b'x'): {deadly}\n"
        "    return event\n"
    )


@pytest.mark.parametrize(
    ("deadly", "code", "why"),
    [
        ("os.abort()", 520, "the context died: killed by SIGABRT"),
        ("os._exit(7)", 520, "the context died: exit code 7"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", 504, "the job timed out after 1000 ms"),
        ("time.sleep(60)", 504, "the job timed out after 1000 ms"),
        ("os.closerange(0, 100); time.sleep(60)", 504, ""),
        ("sys.stdout.write('x' * (80 << 20))", 500, "killed: more than 64MiB of output"),
    ],
)
def test_a_job_that_kills_its_context_is_found_and_no_other_runs_twice(
    functions: FunctionBench, tmp_path: Path, deadly: str, code: int, why: str
) -> None:
    job_timeout = "1m" if "output" in why else "1s"
    source = counting(tmp_path / "runs", deadly)
    datas = [b"%d" % index for index in range(40)]
    datas[30] = b"x"
    ran = run_in_parts(functions, functions.of(source, datas, job_timeout=job_timeout))
    done = [result.text for result in ran.results if result.status == 200]
    assert done == datas[:30] + datas[31:]
    assert outcome_of(statuses(ran)[30]) is Outcome.ERROR
    if why:
        assert (statuses(ran)[30], errors(ran)[30]) == (code, why)
    assert ran.results[30].crashed == (statuses(ran)[30] == 520)
    runs = (tmp_path / "runs").read_bytes().splitlines()
    assert sorted(runs) == sorted([*datas, b"x"])


def test_a_job_that_hangs_takes_the_time_of_the_batch_and_its_mates_run(
    functions: FunctionBench, tmp_path: Path
) -> None:
    source = counting(tmp_path / "runs", "time.sleep(60)")
    ran = run_in_parts(functions, functions.of(source, [b"a", b"x", b"b"], timeout="500ms"))
    assert statuses(ran) == [200, 504, 200]
    assert errors(ran)[1] == "timed out after 500 ms"


def test_a_function_that_dies_of_everything_is_found_out_after_a_few_runs(
    functions: FunctionBench, tmp_path: Path
) -> None:
    source = counting(tmp_path / "runs", "os.abort()")
    ran = run_in_parts(functions, functions.of(source, [b"x"] * 100))
    assert statuses(ran) == [520] * 100
    assert len((tmp_path / "runs").read_bytes().splitlines()) == 9


def test_a_dead_context_is_not_used_again(functions: FunctionBench) -> None:
    source = "import os\n" + PID + "def die(event, context): os.abort()\n"

    async def work(runner: FunctionRunner) -> None:
        ran = await runner.run(functions.of(source, [b"x"], handler="die"))
        assert (statuses(ran), ran.results[0].crashed) == ([520], True)
        assert statuses(await runner.run(functions.of(source, [b"x"], handler="die"))) == [520]
        assert runner.facts()["starts"]["cold"] == 2

    with_runner(functions, work)


def test_a_fork_of_a_function_answers_nothing(functions: FunctionBench) -> None:
    source = """
import os
def handler(event, context):
    if event == b"fork" and os.fork() == 0:
        return "from the child"
    return "from the context"
"""
    ran = run(functions, source, b"fork", b"next")
    assert (statuses(ran), texts(ran)) == ([200, 200], ["from the context"] * 2)


def test_what_a_function_starts_does_not_outlive_its_context(functions: FunctionBench) -> None:
    source = (
        "import subprocess\ndef handler(event, context):\n"
        "    return str(subprocess.Popen(['sleep', '60']).pid)\n"
    )
    (pid,) = texts(run(functions, source))
    end = time.monotonic() + 5
    while not is_gone(pid):
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.parametrize(
    "said", ["b'D1'", "b'D'", "b'Y1'", "b'\\xff' * 3000", "b'P1 2'", "b'Pxyz'"]
)
def test_nonsense_on_the_descriptor_of_the_protocol_harms_no_other(
    functions: FunctionBench, said: str
) -> None:
    source = (
        "import os, time\ndef handler(event, context):\n"
        f"    if event == b'x': os.write(3, {said}); time.sleep(0.2)\n    return event\n"
    )
    ran = run_in_parts(functions, functions.of(source, [b"a", b"x", b"b"]))
    assert statuses(ran)[0] == statuses(ran)[2] == 200


def test_the_answer_cannot_be_cut_under_the_node(functions: FunctionBench) -> None:
    source = "import os\ndef handler(event, context): os.ftruncate(5, 0)\n"
    ran = run(functions, source)
    assert statuses(ran) == [500]
    assert "PermissionError" in ran.results[0].error


def test_nonsense_in_the_answer_is_an_error_of_its_jobs(functions: FunctionBench) -> None:
    source = """
import os
def handler(event, context):
    os.pwrite(5, (1 << 40).to_bytes(8, "little"), 0)
    os.pwrite(5, b"\\xff" * 4000, 16)
    os.write(3, b"D1")
    os._exit(0)
"""
    ran = run(functions, source, b"1", b"2")
    assert {outcome_of(each) for each in statuses(ran)} == {Outcome.ERROR}


def test_cancelling_kills_a_context_at_work(functions: FunctionBench, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    source = (
        "import os, signal\ndef handler(event, context):\n"
        "    for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        f"    open({str(ready)!r}, 'w').close()\n    while True: pass\n"
    )

    async def work(runner: FunctionRunner) -> None:
        task = asyncio.create_task(runner.run(functions.of(source, [b"x"], timeout="1h")))
        await until(ready.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runner.facts()["contexts"] == {"busy": 0, "idle": 0}

    with_runner(functions, work)


# What is found out before a version becomes the current one.


@pytest.mark.parametrize(
    ("body", "words", "file", "line"),
    [
        ("def handler(event, context):\n    return (\n", "'(' was never closed", "main.py", 2),
        ({"main.py": "def handler(e, c): 0", "lib/x.py": "a b"}, "invalid syntax", "lib/x.py", 1),
        ("\nimport nothing_of_that_name\n", "No module named", "main.py", 2),
        ("import os\n\n\n1 / 0\n", "ZeroDivisionError", "main.py", 4),
        ("def work(event, context): pass\n", "no handle_batch or handler", "main.py", None),
        ("handler = 3\n", "handler cannot be called", "main.py", None),
        ("async def handler(event, context): pass\n", "handler is async", "main.py", None),
        ("import os; os.abort()\n", "killed by SIGABRT", None, None),
        ("import os; print('no room'); os._exit(1)\n", "exit code 1: no room", None, None),
        ("def handler(e, c): pass\nx = '\0'\n", "null bytes", "main.py", None),
    ],
)
def test_a_function_that_cannot_be_run_is_refused_with_file_line_and_reason(
    functions: FunctionBench, body: str | dict[str, Any], words: str, file: str, line: int | None
) -> None:
    handler = functions.of(body, []).handler
    with pytest.raises(BadHandler) as refused:
        with_runner(functions, lambda runner: runner.try_out(handler))
    assert words in refused.value.detail
    assert refused.value.extra.get("file") == file
    assert refused.value.extra.get("line") == line


def test_why_a_function_cannot_be_run_is_known_also_when_its_context_ended_meanwhile(
    functions: FunctionBench,
) -> None:
    handler = functions.of("1 / 0", []).handler

    async def work(runner: FunctionRunner) -> None:
        others = set(children())
        trial = asyncio.create_task(runner.try_out(handler))
        await until(lambda: set(children()) - others)
        (child,) = set(children()) - others
        os.waitid(os.P_PID, int(child), os.WEXITED | os.WNOWAIT)  # nothing is read meanwhile
        with pytest.raises(BadHandler, match="ZeroDivisionError"):
            await trial

    with_runner(functions, work)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (PID, {}),
        ({"email.py": "import email.message\n" + PID}, {}),
        ({"a/b/c.py": "from . import d\ndef go(event, context): 0\n", "a/b/d.py": ""},
         {"handler": "a.b.c.go"}),
        ({"main.py": "", "jobs.py": "def handle_batch(events, context): 0"},
         {"handler": "jobs.handle_batch"}),
        ("class Handler:\n    def __call__(self, event, context): pass\nhandler = Handler()\n", {}),
    ],
)  # fmt: skip
def test_a_function_is_found_by_the_usual_names_or_the_option(
    functions: FunctionBench, body: str | dict[str, Any], options: dict[str, Any]
) -> None:
    batch = functions.of(body, [b"x"], **options)

    async def work(runner: FunctionRunner) -> Ran:
        await runner.try_out(batch.handler)
        return await runner.run(batch)

    assert statuses(with_runner(functions, work)) == [200]


def test_trying_out_calls_nothing_of_the_function(functions: FunctionBench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"def before(context): open({str(mark)!r}, 'w')\ndef handler(event, context): 0\n"
    handler = functions.of(source, []).handler
    with_runner(functions, lambda runner: runner.try_out(handler))
    assert not mark.exists()


def test_a_start_that_failed_is_not_tried_again_for_a_moment(
    functions: FunctionBench, tmp_path: Path
) -> None:
    source = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')\n1 / 0\n"

    async def work(runner: FunctionRunner) -> None:
        for _ in range(3):
            ran = await runner.run(functions.of(source, [b"x"]))
            assert statuses(ran) == [status.RETRY_LATER]
            assert errors(ran) == ["main.py, line 2: ZeroDivisionError: division by zero"]

    with_runner(functions, work)
    assert (tmp_path / "starts").read_text() == "x"


def test_the_progress_of_a_job_is_known_while_it_runs(
    functions: FunctionBench, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    source = (
        "import os, time\ndef handler(event, context):\n    context.progress(3, 10)\n"
        f"    while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
    )

    async def work(runner: FunctionRunner) -> None:
        task = asyncio.create_task(runner.run(functions.of(source, [b"x"])))
        await until(lambda: runner.progress(id_of(0)) == (3, 10))
        go_on.touch()
        await task
        assert runner.progress(id_of(0)) is None

    with_runner(functions, work)
