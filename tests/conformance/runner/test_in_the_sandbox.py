"""Functions of every language in the sandbox as a node has it, with control groups and without:
then rlimits bound each process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from function_kit import run_in_parts, statuses, texts
from runner_kit import DenoBench, FunctionBench, NodeBench, WasmBench, need_lang

from sandbox_kit import NoGroups, need_user
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
    assert [status // 100 for status in statuses(ran)] == [2, 5, 2]
