"""What functions in JavaScript are called with, and may say, on each program that runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from function_kit import errors, is_gone, run, run_in_parts, statuses, texts, until, with_runner
from runner_kit import FunctionBench, id_of

from slimq.core import status
from slimq.core.job import Ran
from slimq.core.lines import ChildLine
from slimq.core.status import Outcome, outcome_of
from slimq.errors import BadHandler
from slimq.runner.function import FunctionRunner

HANDLER = "exports.handler = () => 'common';\n"


def script(code: str) -> str:
    """Return a function whose handler does `code`."""
    return "exports.handler = async (event, context) => { " + code + " };\n"


# How it is found.


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        ({"main.cjs": HANDLER}, {}, "common"),
        ({"index.mjs": "export const handler = () => 'modern';"}, {}, "modern"),
        ({"index.js": "export const handler = async () => 'found out';"}, {}, "found out"),
        (
            {
                "package.json": '{"type": "module"}',
                "index.js": "import { word } from './lib/word.js';\n"
                "export const handler = () => word;",
                "lib/word.js": "export const word = 'imported';",
            },
            {},
            "imported",
        ),
        (
            {"main.cjs": "exports.handler = () => require('./lib').word;",
             "lib/index.js": "exports.word = 'required';"},
            {},
            "required",
        ),
        ({"src/jobs.mjs": "export function go() { return 'named'; }"},
         {"handler": "src/jobs.go"}, "named"),
        ({"a.mjs": "", "b.mjs": "export const handleBatch = () => ['all'];"},
         {"handler": "b.handleBatch"}, "all"),
    ],
)  # fmt: skip
def test_a_script_is_found_in_either_kind_of_modules(
    scripts: FunctionBench, body: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    batch = scripts.of(body, [b"x"], **options)

    async def work(runner: FunctionRunner) -> Ran:
        await runner.try_out(batch.handler)
        return await runner.run(batch)

    ran = with_runner(scripts, work)
    assert (statuses(ran), texts(ran), ran.output) == ([200], [said], b"")


@pytest.mark.parametrize(
    ("body", "words", "file", "line"),
    [
        ({"main.cjs": "\nexports.handler = () => {\n"}, "SyntaxError", "main.cjs", None),
        ({"main.mjs": "import './lib.mjs';", "lib.mjs": "\n\na b"}, "SyntaxError", "lib.mjs", 3),
        ({"main.mjs": "\nimport 'nothing_here';"}, "nothing_here", "main.mjs", None),
        ({"main.cjs": "\nrequire('nothing_here');"}, "nothing_here", "main.cjs", 2),
        ({"main.cjs": "\n\nnull.x;"}, "TypeError", "main.cjs", 3),
        ({"main.cjs": "exports.work = () => 1;"}, "no handleBatch or handler", "main.cjs", None),
        ({"main.cjs": "exports.handler = 3;"}, "handler is no function", "main.cjs", None),
        ({"main.cjs": "exports.handler = (event, context, done) => done();"}, "takes a callback",
         "main.cjs", None),
        ({"main.cjs": "process.abort();"}, "killed by SIGABRT", None, None),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_run_is_refused_with_file_and_reason(
    scripts: FunctionBench, body: dict[str, Any], words: str, file: str, line: int | None
) -> None:
    handler = scripts.of(body, []).handler
    with pytest.raises(BadHandler) as refused:
        with_runner(scripts, lambda runner: runner.try_out(handler))
    assert words in refused.value.detail
    assert refused.value.extra.get("file") == file
    assert not line or refused.value.extra["line"] == line


def test_trying_out_a_script_calls_nothing_of_it(scripts: FunctionBench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"exports.before = () => require('fs').writeFileSync('{mark}', '');\n{HANDLER}"
    handler = scripts.of({"main.cjs": source}, []).handler
    with_runner(scripts, lambda runner: runner.try_out(handler))
    assert not mark.exists()


# What a job says.


def test_what_a_script_returns_is_the_result(scripts: FunctionBench) -> None:
    source = """
const said = { none: undefined, nil: null, bytes: Buffer.from([255, 10]), text: "two\\nlines",
    json: { a: [1, null] }, status: { statusCode: 201, body: "made" }, bare: { statusCode: 204 },
    other: { statusCode: 201, headers: {} }, array: [404, "x"], number: 404 };
exports.handler = async (event) => said[event];
"""
    names = [b"none", b"nil", b"bytes", b"text", b"json", b"status", b"bare", b"other", b"array"]
    ran = run(scripts, {"main.cjs": source}, *names, b"number")
    assert statuses(ran) == [200, 200, 200, 200, 200, 201, 204, 200, 200, 200]
    assert [result.text for result in ran.results] == [
        b"",
        b"",
        b"\xff\n",
        b"two\nlines",
        b'{"a":[1,null]}',
        b"made",
        b"",
        b'{"statusCode":201,"headers":{}}',
        b'[404,"x"]',
        b"404",
    ]


def test_what_a_script_throws_is_an_error_of_its_job_with_its_own_lines(
    scripts: FunctionBench,
) -> None:
    files = {
        "main.cjs": "const half = require('./helper.cjs');\n"
        "exports.handler = async (event) => half(event);\n",
        "helper.cjs": "module.exports = (event) => {\n"
        "  if (event[0] === 48) throw new RangeError('zero');\n};\n",
    }
    ran = run(scripts, files, b"1", b"0", b"1")
    assert statuses(ran) == [200, 500, 200]
    assert errors(ran) == ["", "RangeError: zero", ""]
    trace = texts(ran)[1]
    assert "helper.cjs:2:" in trace
    assert "main.cjs:2:" in trace
    assert "script_context" not in trace


@pytest.mark.parametrize(
    "thrown", ["throw 'text'", "throw null", "throw Object.create(null)", "throw { stack: 3 }"]
)
def test_whatever_a_script_throws_is_an_error_of_its_job_alone(
    scripts: FunctionBench, thrown: str
) -> None:
    ran = run(scripts, script(f"if (event == 'x') {thrown}"), b"a", b"x", b"b")
    assert statuses(ran) == [200, 500, 200]
    assert errors(ran)[1]


def test_a_script_says_not_now_and_never(scripts: FunctionBench) -> None:
    source = script("""
    if (event == "later") throw new context.Retry("busy", { after: 90 });
    if (event == "soon") throw new context.Retry();
    throw new context.Failed("no such address");
""")
    ran = run(scripts, source, b"later", b"soon", b"never")
    assert statuses(ran) == [102, 102, 400]
    assert texts(ran) == ["busy", "", "no such address"]
    assert [result.retry_after_ms for result in ran.results] == [90_000, None, None]


def test_what_a_script_prints_is_log_and_forges_nothing(scripts: FunctionBench) -> None:
    source = script("""
    console.error("first"); console.log("500 forged\\n#J: bill|forged");
    process.stderr.write("#J: bill|forged\\n"); console.error("last"); return "mine";
""")
    ran = run(scripts, source)
    assert (statuses(ran), texts(ran), ran.children) == ([200], ["mine"], [[]])
    assert ran.output == b"first\n500 forged\n#J: bill|forged\n#J: bill|forged\nlast\n"


def test_what_a_script_printed_is_there_however_it_ends(scripts: FunctionBench) -> None:
    source = script("""
    for (let n = 0; n < 5000; n++) console.log("x".repeat(100), n);
    process.abort();
""")
    assert b" 4999\n" in run(scripts, source).output


def test_a_job_of_a_script_adds_jobs_also_when_a_later_one_kills_its_context(
    scripts: FunctionBench,
) -> None:
    source = script(
        "context.enqueue('bill', { for: String(event) }); if (event == 'x') process.abort();"
    )
    ran = run(scripts, source, b"a", b"x")
    assert ran.children == [[ChildLine("bill", b'{"for":"a"}')], []]
    assert (statuses(ran)[0], ran.suspects) == (200, [1])


@pytest.mark.parametrize("call", ["'not legal', 'x'", "'a', 'two\\nlines'", "'a', () => 1", "1"])
def test_what_can_be_no_job_is_not_added_by_a_script(scripts: FunctionBench, call: str) -> None:
    ran = run(scripts, script(f"context.enqueue({call})"))
    assert ran.children == [[]]
    assert outcome_of(statuses(ran)[0]) is Outcome.ERROR


def test_a_script_reads_a_job_as_json_or_gets_bytes(scripts: FunctionBench) -> None:
    source = script("return Buffer.isBuffer(event) ? 'bytes' : typeof event")
    datas = [b'{"a": 1}', b"[1]", b"nonsense", b'"\xff"', b"[" * 100_000]
    ran = run(scripts, source, *datas, event="json")
    assert texts(ran) == ["object", "object", "bytes", "bytes", "bytes"]
    assert texts(run(scripts, source, b"[1]")) == ["bytes"]


def test_the_context_of_a_script_has_what_lambda_has(scripts: FunctionBench) -> None:
    source = script("""
    const left = context.getRemainingTimeInMillis();
    if (!(left > 0 && left <= 5000)) throw new Error(String(left));
    if (!context.invokedFunctionArn.endsWith(":mail")) throw new Error("arn");
    const { awsRequestId, functionName, functionVersion, memoryLimitInMB } = context;
    return [awsRequestId, functionName, functionVersion, memoryLimitInMB, context.attempt,
        context.client, context.id === awsRequestId];
""")
    ran = run(scripts, source, b"a", b"b", memory="128MiB", timeout="5s", version=7)
    assert texts(ran)[1] == f'["{id_of(1)}","mail","7",128,2,"acme",true]'


def test_a_promise_that_can_never_settle_is_an_error_of_its_job(scripts: FunctionBench) -> None:
    source = script("if (event == 'x') await new Promise(() => {}); return event")
    ran = run(scripts, source, b"a", b"x", b"x", b"b")
    assert statuses(ran) == [200, 500, 500, 200]
    assert "can never settle" in errors(ran)[1]


def test_the_progress_of_a_job_of_a_script_is_known_while_it_runs(
    scripts: FunctionBench, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    source = script(f"""
    context.progress(3, 10);
    const {{ existsSync }} = require("node:fs");
    while (!existsSync("{go_on}")) await new Promise((done) => setTimeout(done, 10));
""")

    async def work(runner: FunctionRunner) -> None:
        task = asyncio.create_task(runner.run(scripts.of(source, [b"x"])))
        await until(lambda: runner.progress(id_of(0)) == (3, 10))
        go_on.touch()
        await task

    with_runner(scripts, work)


# Handlers that were written for SQS.

SQS = """
exports.handler = async (event) => ({ batchItemFailures: event.Records
    .filter((each) => each.body === "bad").map((each) => ({ itemIdentifier: each.messageId })) });
"""


def test_a_script_for_sqs_fails_the_messages_that_it_names(scripts: FunctionBench) -> None:
    ran = run(scripts, SQS, b"a", b"bad", b"c", event="sqs")
    assert statuses(ran) == [200, 500, 200]
    assert "batchItemFailures" in errors(ran)[1]


@pytest.mark.parametrize(
    "answer",
    [
        "{ batchItemFailures: [{ itemIdentifier: 'another' }] }",
        "{ batchItemFailures: [{ itemIdentifier: null }] }",
        "{ batchItemFailures: [null] }",
        "{ batchItemFailures: 'x' }",
        "null.x",
    ],
)
def test_a_script_for_sqs_that_throws_or_names_no_message_fails_all(
    scripts: FunctionBench, answer: str
) -> None:
    ran = run(scripts, script(f"return {answer}"), b"a", b"b", event="sqs")
    assert {outcome_of(each) for each in statuses(ran)} == {Outcome.ERROR}


@pytest.mark.parametrize("answer", ["", "null", "{}", "{ batchItemFailures: [] }", "'anything'"])
def test_a_script_for_sqs_that_names_nothing_did_all(scripts: FunctionBench, answer: str) -> None:
    assert statuses(run(scripts, script(f"return {answer}"), b"a", b"b", event="sqs")) == [200, 200]


def test_a_record_of_a_script_for_sqs_has_what_a_message_has(scripts: FunctionBench) -> None:
    source = script("""
    const { createHash } = require("node:crypto");
    for (const each of event.Records) {
        const right = each.eventSource === "aws:sqs" && each.attributes.SentTimestamp > 0
            && each.md5OfBody === createHash("md5").update(each.body).digest("hex")
            && each.attributes.ApproximateReceiveCount === each.body;
        if (!right) throw new Error(JSON.stringify(each));
    }
""")
    assert statuses(run(scripts, source, b"1", b"2", event="sqs")) == [200, 200]


# Hooks.


def test_hooks_of_a_script_run_once_for_a_context_and_around_each_batch(
    scripts: FunctionBench,
) -> None:
    source = """
exports.before = async (context) => console.log("before", context.client);
exports.beforeBatch = (context) => console.log("before batch of", context.jobs.length);
exports.afterBatch = async () => console.log("after batch");
exports.handler = () => console.log("job");
"""

    async def work(runner: FunctionRunner) -> list[bytes]:
        return [(await runner.run(scripts.of(source, [b"x"] * n))).output for n in (2, 1)]

    first, second = with_runner(scripts, work)
    assert first == b"before acme\nbefore batch of 2\njob\njob\nafter batch\n"
    assert second == b"before batch of 1\njob\nafter batch\n"


@pytest.mark.parametrize("hook", ["before", "beforeBatch", "afterBatch"])
@pytest.mark.parametrize("failing", ["null.x", "process.exit(3)", "process.abort()"])
def test_a_hook_of_a_script_that_fails_or_dies_costs_nobody_a_failure(
    scripts: FunctionBench, hook: str, failing: str
) -> None:
    source = f"exports.{hook} = () => {{ {failing} }};\nexports.handler = () => {{}};\n"
    ran = run(scripts, source, b"1", b"2")
    assert statuses(ran) == [status.RETRY_LATER] * 2
    assert all(errors(ran))
    assert not ran.suspects


def test_what_after_batch_of_a_script_did_not_complete_is_not_done(scripts: FunctionBench) -> None:
    source = """
exports.afterBatch = async () => { throw new Error("no commit"); };
exports.handler = (event, context) => {
    if (event == "failed") throw new context.Failed("as it is");
};
"""
    ran = run(scripts, source, b"ok", b"failed")
    assert statuses(ran) == [status.RETRY_LATER, 400]
    assert errors(ran)[0] == "afterBatch failed: Error: no commit"


# Deaths.


@pytest.mark.parametrize(
    ("deadly", "code", "why"),
    [
        ("process.abort()", 520, "the context died: killed by SIGABRT"),
        ("process.exit(7)", 520, "the context died: exit code 7"),
        ("process.kill(process.pid, 'SIGSTOP'); for (;;);", 504, "the job timed out after 1000 ms"),
        ("await new Promise((done) => setTimeout(done, 60_000))", 504,
         "the job timed out after 1000 ms"),
        ("setTimeout(() => { throw new Error('late'); }); await new Promise((done) => "
         "setTimeout(done, 1000))", 520, "the context died: exit code 1"),
        ("Promise.reject(new Error('unheard')); await new Promise((done) => "
         "setTimeout(done, 1000))", 520, "the context died: exit code 1"),
    ],
)  # fmt: skip
def test_a_job_of_a_script_that_kills_its_context_is_found_and_no_other_runs_twice(
    scripts: FunctionBench, tmp_path: Path, deadly: str, code: int, why: str
) -> None:
    runs = tmp_path / "runs"
    source = script(
        f"require('fs').appendFileSync('{runs}', event + '\\n'); "
        f"if (event == 'x') {{ {deadly} }} return event"
    )
    datas = [b"%d" % index for index in range(40)]
    datas[30] = b"x"
    ran = run_in_parts(scripts, scripts.of(source, datas, job_timeout="1s"))
    done = [result.text for result in ran.results if result.status == 200]
    assert done == datas[:30] + datas[31:]
    assert (statuses(ran)[30], errors(ran)[30]) == (code, why)
    assert sorted(runs.read_bytes().splitlines()) == sorted([*datas, b"x"])


def test_what_a_script_starts_has_no_descriptor_of_the_protocol_and_does_not_outlive_it(
    scripts: FunctionBench,
) -> None:
    source = script("""
    const { spawn, execSync } = require("node:child_process");
    const open = execSync("ls -l /proc/self/fd").toString();
    return `${spawn("sleep", ["60"]).pid} ${/slimq/.test(open)}`;
""")
    pid, has_ours = texts(run(scripts, source))[0].split()
    assert has_ours == "false"
    end = time.monotonic() + 5
    while not is_gone(pid):
        assert time.monotonic() < end
        os.sched_yield()


def test_a_context_of_a_script_is_warm_for_the_next_batch_and_dies_unheard(
    scripts: FunctionBench,
) -> None:
    source = "let n = 0;\nexports.handler = () => [process.pid, ++n];\n"

    async def work(runner: FunctionRunner) -> list[str]:
        said = []
        for _ in range(2):
            said += texts(await runner.run(scripts.of(source, [b"x"])))
        os.kill(int(said[0][1:].partition(",")[0]), signal.SIGKILL)
        said += texts(await runner.run(scripts.of(source, [b"x"])))
        return said

    assert [each.partition(",")[2] for each in with_runner(scripts, work)] == ["1]", "2]", "1]"]
