"""The same ways out, tried by functions in contexts of every language as a node starts them.

Functions of lang `python`, `node` and `deno` start the program that tries them all. A module of
WebAssembly can start nothing: the program stands there instead of what runs modules, as if a defect
of that had let one out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import msgspec
import pytest
import uvloop

from escape.outside import SECRET, Outside
from escape.ways_out import WAYS
from sandbox_kit import ESCAPE, need, need_user, python_of
from slimq.core.handler import Handler, parse_options
from slimq.core.job import Batch, Job, Ran
from slimq.runner.cell import Cell, python_folders
from slimq.runner.function import FunctionRunner
from slimq.runner.programs import Missing, find_programs
from slimq.runner.sandbox import Launch, Sandbox
from slimq.system.cgroup import ControlGroups

SCRIPT = """
const { spawnSync } = require("node:child_process");
exports.handler = (event) => {
    const [program, ...words] = JSON.parse(event);
    const done = spawnSync(program, words);
    return done.status === 0 ? String(done.stdout) : { statusCode: 500, body: String(done.stderr) };
};
"""
STARTERS = {
    "python": {
        "main.py": "import json, subprocess\n"
        "def handler(event, context):\n"
        "    return subprocess.check_output(json.loads(event))\n"
    },
    "node": {"main.cjs": SCRIPT},
    "deno": {"main.cjs": SCRIPT},
    "wasm": {"main.wat": "(module)"},
}


CASES = [(lang, way) for lang in STARTERS for way in WAYS]
CASES.remove(("wasm", "inherit_descriptors"))  # it stands where the protocol's belong
Led = Callable[[str], dict[str, str]]


class WithTheProgram:
    """The sandbox; a context in it may read the program, too, and one of `wasm` is the program."""

    def __init__(self, lang: str, outside: Outside) -> None:
        user = "root" if ControlGroups().trees else "nobody"
        need_user(user)
        python = python_of(user)
        self.program = [python, "-I", str(ESCAPE / "ways_out.py"), str(outside.list)]
        self._readable = (*python_folders(Path(python)), str(outside.source), str(ESCAPE))
        self._stands_in = lang == "wasm"
        self._sandbox = Sandbox(ControlGroups())

    def launch(self, command: Sequence[str], cell: Cell) -> Launch:
        cell = msgspec.structs.replace(cell, readable=(*cell.readable, *self._readable))
        return self._sandbox.launch(self.program if self._stands_in else command, cell)


def tried(lang: str, outside: Outside, folder: Path) -> dict[str, str]:
    """Return what all ways led to, for a function of a language."""
    program = find_programs()[lang]
    need(not isinstance(program, Missing), str(program))
    sandbox = WithTheProgram(lang, outside)
    handler = Handler(
        client="*",
        jobtype="ways",
        version=1,
        lang=lang,
        body=STARTERS[lang],
        options=parse_options(lang, {}),
        written={},
    )
    data = json.dumps(sandbox.program).encode()
    job = Job("0abcdef-nodenode-0000", 1, failures=0, crashes=0, due_at=0, data=data)

    async def run() -> Ran:
        runner = FunctionRunner(
            sandbox, folder, memory_max=1 << 30, idle_s=600.0, environment={"CANARY": SECRET}
        )
        try:
            return await runner.run(Batch("acme/ways", handler, [job]))
        finally:
            await runner.close()

    ran = uvloop.run(run())
    (result,) = ran.results
    said = ran.output if lang == "wasm" else result.text
    assert said.startswith(b"{"), (result, ran.output)
    found: dict[str, str] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def led(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Led:
    """Return what all ways led to, for a language; all are tried once."""
    folder = tmp_path_factory.mktemp("functions")
    return cache(lambda lang: tried(lang, outside, folder / lang))


@pytest.mark.parametrize(("lang", "way"), CASES)
def test_no_way_leads_out_of_a_context(led: Led, lang: str, way: str) -> None:
    assert not led(lang)[way].startswith("OUT"), led(lang)[way]


def test_no_process_outside_was_harmed(outside: Outside) -> None:
    assert outside.victim.poll() is None
