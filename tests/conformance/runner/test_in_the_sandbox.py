"""Functions of every language in the sandbox as a node has it, with control groups and without:
then rlimits bound each process."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from function_kit import run_in_parts, statuses, texts, with_runner
from runner_kit import PROGRAMS, DenoBench, FunctionBench, NodeBench, WasmBench, need_lang

from sandbox_kit import NoGroups, need_user
from slimq.core import status
from slimq.core.job import Ran
from slimq.errors import BadHandler, NoContext
from slimq.runner.function import FunctionRunner
from slimq.runner.programs import Program
from slimq.runner.sandbox import Sandbox
from slimq.system.cgroup import ControlGroups

DATAS = [b"", b"hello", bytes(byte for byte in range(256) if byte != 10), b"x" * 1000]
HOGS = {
    "python": "def handler(event, context):\n"
    "    if event == b'x':\n"
    "        kept = [bytearray(b'x' * (1 << 20)) for _ in range(4000)]\n",
    "node": "exports.handler = (event) => { const kept = []; if (event == 'x') "
    "for (let n = 0; n < 4000; n++) kept.push(Buffer.alloc(1 << 20, 1)); };",
}
HOGS["deno"] = HOGS["node"]
BENCHES = {each.lang: each for each in (FunctionBench, NodeBench, DenoBench, WasmBench)}
Inside = Callable[[str], FunctionBench]


@pytest.fixture(params=["control groups", "rlimits"])
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Inside:
    """Return what gives the bench of a language, in such a sandbox."""
    need_user("root" if ControlGroups().trees else "nobody")
    groups = ControlGroups() if request.param == "control groups" else NoGroups(tmp_path)

    def bench_of(lang: str) -> FunctionBench:
        need_lang(lang)
        bench = BENCHES[lang](Sandbox(groups))
        bench.folder = tmp_path
        return bench

    return bench_of


@pytest.mark.parametrize("lang", BENCHES)
def test_each_line_comes_as_it_was_sent(inside: Inside, lang: str) -> None:
    bench = inside(lang)
    ran = run_in_parts(bench, bench.batch("digest", DATAS))
    assert texts(ran) == [f"{len(data)} {hashlib.sha256(data).hexdigest()}" for data in DATAS]


@pytest.mark.parametrize("lang", HOGS)
def test_a_job_that_takes_too_much_memory_hurts_no_other(inside: Inside, lang: str) -> None:
    bench = inside(lang)
    ran = run_in_parts(bench, bench.of(HOGS[lang], [b"a", b"x", b"b"], memory="200MiB"))
    assert [code // 100 for code in statuses(ran)] == [2, 5, 2]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that is not in /tmp: all of that may be listed in a sandbox."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_package_is_found_beside_what_nobody_may_list(inside: Inside, elsewhere: Path) -> None:
    bench, program = inside("wasm"), PROGRAMS["wasm"]
    assert isinstance(program, Program)
    package = str(shutil.copytree(program.readable[-1], elsewhere / "wasmtime"))
    moved = program._replace(
        command=(*program.command[:-1], package), readable=(*program.readable[:-1], package)
    )
    batch = bench.batch("digest", [b""])
    ran = with_runner(bench, lambda runner: runner.run(batch), programs={**PROGRAMS, "wasm": moved})
    assert texts(ran) == [f"0 {hashlib.sha256(b'').hexdigest()}"]


@pytest.mark.parametrize("inside", ["control groups"], indirect=True)
def test_a_busy_function_gets_its_share_of_the_processors(inside: Inside) -> None:
    if "cpu" not in ControlGroups().bounded:
        pytest.skip("nothing here bounds processors")
    bench = inside("python")
    source = """
import time
def handler(event, context):
    end, used = time.monotonic() + 2, time.process_time()
    while time.monotonic() < end: pass
    return time.process_time() - used
"""
    ran = run_in_parts(bench, bench.of(source, [b"x"], cpus=0.25))
    assert 0 < float(texts(ran)[0]) < 1.0


MISSING = "/nowhere/to/be/found"
AT_FAULT: dict[str, tuple[Callable[[Program], Program], str]] = {  # and not the function
    "bubblewrap": (
        lambda program: program._replace(readable=(MISSING,)),
        f"bwrap: Can't find source path {MISSING}",
    ),
    "the last step": (
        lambda program: program._replace(command=(MISSING,)),
        "slimq sandbox: [Errno 2]",
    ),
    "the interpreter": (
        lambda program: program._replace(command=("/usr/bin/false",)),
        "exit code 1",
    ),
    "its packages": (
        lambda program: program._replace(command=(*program.command[:-1], MISSING)),
        f"No such file or directory: '{MISSING}/__init__.py'",
    ),
}


@pytest.mark.parametrize("culprit", AT_FAULT)
def test_a_function_is_not_blamed_for_what_failed_before_it(inside: Inside, culprit: str) -> None:
    bench = inside("wasm")
    breaking, why = AT_FAULT[culprit]
    program = PROGRAMS["wasm"]
    assert isinstance(program, Program)
    programs = {**PROGRAMS, "wasm": breaking(program)}
    batch = bench.batch("digest", [b"a", b"b"])

    async def work(runner: FunctionRunner) -> Ran:
        with pytest.raises(NoContext) as refusal:
            await runner.try_out(batch.handler)
        assert why in refusal.value.detail
        return await runner.run(batch)

    ran = with_runner(bench, work, programs=programs)
    assert statuses(ran) == [status.RETRY_LATER] * 2
    assert why in ran.results[0].error


@pytest.mark.parametrize("code", [0, 1, 125])
def test_a_function_that_ends_while_it_is_loaded_is_refused(inside: Inside, code: int) -> None:
    bench = inside("python")
    source = f"import os\nprint('bwrap: broken')\nos._exit({code})"

    async def work(runner: FunctionRunner) -> None:
        with pytest.raises(BadHandler, match=f"could not be loaded: .* exit code {code}"):
            await runner.try_out(bench.of(source, [b"x"]).handler)

    with_runner(bench, work)
