"""What modules of WebAssembly may do, and what becomes of those that die."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from function_kit import errors, run, run_in_parts, statuses, texts, with_runner
from module_behaviours import echo, forever, module, saying
from runner_kit import FunctionBench, id_of

from slimq.errors import BadHandler
from slimq.runner.function import FunctionRunner

WASI = '(import "wasi_snapshot_preview1"'
EXIT = f'{WASI} "proc_exit" (func $exit (param i32)))'
OPEN = f'{WASI} "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))'
VARIABLES = f"""{WASI} "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  {WASI} "environ_get" (func $variables (param i32 i32) (result i32)))"""


def test_a_compiled_module_runs_as_its_text_does(modules: FunctionBench) -> None:
    import wasmtime

    binary = base64.b64encode(bytes(wasmtime.wat2wasm(echo()))).decode()
    files = {"echo.wasm": {"base64": binary}, "echo.c": "int main() {}"}
    assert texts(run(modules, files, b"a", b"b")) == ["a", "b"]


def test_each_batch_has_an_instance_of_its_own_in_the_same_context(modules: FunctionBench) -> None:
    source = module(
        "(if (i32.load (i32.const 2000)) (then unreachable)) (i32.store (i32.const 2000) "
        "(i32.const 1)) (call $write (i32.const 1024) (i32.const 4))",
        b"200\n",
    )

    async def work(runner: FunctionRunner) -> None:
        for _ in range(3):
            assert statuses(await runner.run(modules.of(source, [b"x"]))) == [200]
        assert runner.facts()["starts"]["cold"] == 1

    with_runner(modules, work)


@pytest.mark.parametrize(
    ("deadly", "more", "why"),
    [
        ("unreachable", "", "trap: unreachable"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "", "trap: integer division by zero"),
        ("(drop (i32.load (i32.const -4)))", "", "trap: memory out of bounds"),
        ("(call $exit (i32.const 7))", EXIT, "exit code 7"),
    ],
)
def test_a_line_that_kills_its_instance_is_found_and_its_context_lives(
    modules: FunctionBench, deadly: str, more: str, why: str
) -> None:
    source = echo(deadly).replace('(memory (export "memory")', f'{more} (memory (export "memory")')
    datas = [b"%d" % index for index in range(40)]
    datas[30] = b"x"

    async def work(runner: FunctionRunner) -> Any:
        from slimq.runner.split import run_split

        ran = await run_split(runner.run, modules.of(source, datas))
        assert runner.facts()["starts"]["cold"] == 1
        return ran

    ran = with_runner(modules, work)
    done = [result.text for result in ran.results if result.status == 200]
    assert done == datas[:30] + datas[31:]
    assert (statuses(ran)[30], errors(ran)[30]) == (520, why)
    assert ran.results[30].crashed


def test_a_module_that_says_all_and_then_dies_has_said_it(modules: FunctionBench) -> None:
    source = module("(call $write (i32.const 1024) (i32.const 8)) unreachable", b"200\n422\n")
    ran = run(modules, source, b"a", b"b")
    assert (statuses(ran), ran.suspects) == ([200, 422], [])


def test_a_result_without_a_newline_at_the_end_counts(modules: FunctionBench) -> None:
    assert texts(run(modules, saying(b"200 a\n200 b"), b"1", b"2")) == ["a", "b"]


def test_a_line_that_takes_too_long_is_found(modules: FunctionBench) -> None:
    batch = modules.of(echo("(loop $for (br $for))"), [b"a", b"x", b"b"], job_timeout="500ms")
    ran = run_in_parts(modules, batch)
    assert statuses(ran) == [200, 504, 200]
    assert errors(ran)[1] == "the job timed out after 500 ms"


def test_memory_beyond_the_limit_is_not_given(modules: FunctionBench) -> None:
    grow = "(if (i32.eq (memory.grow (i32.const {})) (i32.const -1)) (then unreachable))"
    say = "(call $write (i32.const 1024) (i32.const 4))"
    for pages, wanted in ((800, [200]), (4096, [520])):
        ran = run(modules, module(grow.format(pages) + say, b"200\n"), memory="256MiB")
        assert statuses(ran) == wanted


def test_output_without_end_is_an_error_that_names_the_limit(modules: FunctionBench) -> None:
    ran = run(modules, forever(b"# a log line\n" * 5000), timeout="1m")
    assert errors(ran) == ["more than 64MiB of output"]


def test_what_is_written_to_standard_error_is_log_and_forges_nothing(
    modules: FunctionBench,
) -> None:
    source = module(
        "(call $write_to (i32.const 2) (i32.const 1024) (i32.const 16))"
        "(call $write (i32.const 1040) (i32.const 9))",
        b"500 \n#J: a|for\n\n200 mine\n",
    )
    ran = run(modules, source)
    assert (statuses(ran), texts(ran), ran.children) == ([200], ["mine"], [[]])
    assert ran.output == b"500 \n#J: a|for\n\n"


def test_a_module_knows_whose_job_it_runs(modules: FunctionBench) -> None:
    source = module(
        "(drop (call $sizes (i32.const 16) (i32.const 20)))"
        "(drop (call $variables (i32.const 4096) (i32.const 8192)))"
        "(i32.store (i32.const 8188) (i32.const 0x20303032))"
        "(call $write (i32.const 8188) (i32.add (i32.const 4) (i32.load (i32.const 20))))",
        more=VARIABLES,
    )
    (said,) = texts(run(modules, source, client="acme"))
    assert said.rstrip("\0").split("\0") == [
        "SLIMQ_CLIENT=acme",
        "SLIMQ_JOBTYPE=mail",
        "SLIMQ_TYPE=acme/mail",
        "SLIMQ_COUNT=1",
        f"SLIMQ_JOB_ID={id_of(0)}",
        "SLIMQ_ATTEMPT=1",
    ]


@pytest.mark.parametrize("folder", range(3, 8))
def test_a_module_has_no_files(modules: FunctionBench, folder: int) -> None:
    source = module(
        f"(if (call $open (i32.const {folder}) (i32.const 0) (i32.const 1028) (i32.const 1) "
        "(i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 16)) (then "
        "(call $write (i32.const 1024) (i32.const 4))))",
        b"200\n.",
        OPEN,
    )
    assert statuses(run(modules, source)) == [200]


@pytest.mark.parametrize(
    "vector", ["(i32.const 0) (i32.const 1)", "(i32.const -8) (i32.const 1)",
               "(i32.const 0) (i32.const 70000)", "(i32.const 0) (i32.const -1)"],
)  # fmt: skip
@pytest.mark.parametrize("call", ["$fd_write (i32.const 1)", "$fd_read (i32.const 0)"])
def test_a_place_outside_of_its_memory_is_an_error_that_a_module_is_told(
    modules: FunctionBench, call: str, vector: str
) -> None:
    source = module(
        "(i32.store (i32.const 0) (i32.const -16)) (i32.store (i32.const 4) (i32.const 1000))"
        f"(if (i32.eq (call {call} {vector} (i32.const 8)) (i32.const 21)) (then "
        "(call $write (i32.const 1024) (i32.const 4))))",
        b"200\n",
    )
    assert statuses(run(modules, source)) == [200]


@pytest.mark.parametrize(
    ("body", "words", "line"),
    [
        ("(module\n  (func (export", "expected", 2),
        ({"main.wasm": "no module"}, "it is no compiled module", None),
        ("(module)", "exports no _start: build it as a command", None),
        ('(module (func (export "_start")))', "exports no memory", None),
        ('(module (import "env" "x" (func)) (memory (export "memory") 1) '
         '(func (export "_start")))', "unknown import", None),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_run_is_refused_with_the_reason(
    modules: FunctionBench, body: str | dict[str, Any], words: str, line: int | None
) -> None:
    handler = modules.of(body, []).handler
    with pytest.raises(BadHandler) as refused:
        with_runner(modules, lambda runner: runner.try_out(handler))
    assert words in refused.value.detail
    assert refused.value.extra["file"] == next(iter(body)) if isinstance(body, dict) else "main.wat"
    assert not line or refused.value.extra["line"] == line


def test_a_module_sees_nothing_of_the_packages_beside_wasmtime(modules: FunctionBench) -> None:
    run(modules, saying(b"200\n"))
    (cell,) = modules.cells
    assert [path for path in cell.readable if Path(path).name == "site-packages"] == []
