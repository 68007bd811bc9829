"""Functions in every language, deployed to a node as it comes, in the real sandbox."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import Node

from slimq.runner.programs import Missing, find_programs

EXAMPLES = Path(__file__).parents[2] / "examples" / "functions"
DATAS = [b"", b"hello", bytes(byte for byte in range(256) if byte != 10), b"x" * 1000]

# What a script tries, and what it must not come to.
WAYS = """
const { readFileSync, writeFileSync, readdirSync } = require("node:fs");
const { connect } = require("node:net");
const { spawnSync } = require("node:child_process");

const fails = (work) => { try { work(); return false; } catch { return true; } };
const refused = (port) => new Promise((done) => {
    const socket = connect(port, "127.0.0.1", () => done(false));
    socket.on("error", () => done(true));
});

exports.handler = async (event) => ({
    environment: Object.keys(process.env).every((name) => !name.startsWith("SLIMQ")),
    journal: fails(() => readdirSync(String(event).split(" ")[1])),
    network: await refused(Number(String(event).split(" ")[0])),
    processes: readdirSync("/proc").filter((name) => /^\\d+$/.test(name)).length < 10,
    shadow: fails(() => readFileSync("/etc/shadow")),
    system: fails(() => writeFileSync("/usr/x", "")),
    source: fails(() => writeFileSync(__filename, "")),
    mounts: spawnSync("mount", ["-t", "tmpfs", "x", "/tmp"]).status !== 0,
    root: process.getuid() !== 0,
    tmp: !fails(() => writeFileSync("/tmp/x", "")),
});
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    if shutil.which("bwrap") is None:
        need("bubblewrap is missing: apt-get install bubblewrap")
    with Node(tmp_path) as node:
        yield node


def need(message: str) -> None:
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def need_lang(lang: str) -> None:
    program = find_programs()[lang]
    if isinstance(program, Missing):
        need(str(program))


def deploy(node: Node, jobtype: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slimq", "fn", "deploy", jobtype, str(path)],
        env={**os.environ, "SLIMQ_URL": node.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lang", ["node", "deno", "wasm"])
def test_the_example_of_a_language_is_deployed_and_runs_the_lines(node: Node, lang: str) -> None:
    need_lang(lang)
    name = {"node": "hash.mjs", "deno": "hash.ts", "wasm": "hash.wat"}[lang]
    deploy(node, "hash", EXAMPLES / name)
    said = [node.done(id_)["result"] for id_ in node.add("hash", DATAS)]
    assert said == [f"{len(data)} {hashlib.sha256(data).hexdigest()}" for data in DATAS]
    assert node.quit() == 0


def test_a_module_that_a_compiler_made_is_deployed_with_its_source(node: Node) -> None:
    need_lang("wasm")
    deploy(node, "iban", EXAMPLES / "iban")
    lines = [
        b"gb82 west 1234 5698 7654 32",
        b"DE89370400440532013000",
        b"",
        b"GB82\0",
        b"\xff" * 99,
    ]
    jobs = [node.done(id_) for id_ in node.add("iban", [*lines, lines[0][:-1] + b"3"])]
    assert [job["status"] for job in jobs] == [200, 200, 422, 422, 422, 422]
    assert [job["result"] for job in jobs[:2]] == ["GB82WEST12345698765432", lines[1].decode()]
    assert jobs[-1]["result"] == "its check digits do not match"


@pytest.mark.parametrize("lang", ["node", "deno"])
def test_a_script_comes_to_nothing_that_is_not_its_own(node: Node, lang: str) -> None:
    need_lang(lang)
    node.put("ways", lang=lang, body={"main.cjs": WAYS})
    data = f"{node.url.rpartition(':')[2]} {node.data / 'journal'}".encode()
    (id_,) = node.add("ways", [data])
    held = node.done(id_)
    assert held["outcome"] == "ok", held
    assert {name for name, is_held in json.loads(held["result"]).items() if not is_held} == set()
