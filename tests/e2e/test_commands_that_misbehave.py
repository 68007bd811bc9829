"""Commands that misbehave hurt the jobs concerned, say why, and harm no others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from node_kit import ECHO, Node, commands_of, wait_until

LINES = [b"a", b"b", b"c", b"d"]


class Case(NamedTuple):
    """A command for four jobs. `statuses` and `errors` (patterns) are those they end with."""

    name: str
    command: list[str]
    statuses: list[int]
    errors: list[str]
    options: Mapping[str, Any] = MappingProxyType({})
    output: str = ""  # a pattern of what is kept of stderr


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


ALONE = {"batch_size": 1}
CASES = [
    Case(
        "does-not-exist",
        ["no-such-command"],
        [500] * 4,
        ["cannot start 'no-such-command': command not found"] * 4,
    ),
    Case(
        "is-no-program",
        ["/etc/passwd"],
        [500] * 4,
        ["cannot start '/etc/passwd': Permission denied"] * 4,
    ),
    Case("dies", shell("kill -SEGV $$"), [520] * 4, ["killed by SIGSEGV"] * 4),
    Case(
        "dies-of-one",
        shell('while read -r x; do [ "$x" = b ] && kill -9 $$; echo 200; done'),
        [200, 520, 200, 200],
        ["", "killed by SIGKILL", "", ""],
    ),
    Case("exits-early", shell("exit 3"), [500] * 4, ["exit code 3"] * 4),
    Case(
        "exits-after-two",
        shell("read -r x; echo 200; read -r x; echo 200; exit 3"),
        [200, 200, 200, 200],  # run again without the first two, it answers the others
        [""] * 4,
    ),
    Case(
        "garbage",
        shell(r"printf '\377\376 200\n200garbage\n999 no\n\n'"),
        [502] * 4,
        ["malformed result line: .+"] * 4,
    ),
    Case(
        "garbage-for-one",
        shell("echo 200; echo what?; echo 200; echo 200"),
        [200, 502, 200, 200],
        ["", r"malformed result line: 'what\?'", "", ""],
    ),
    Case(
        "too-few",
        shell("echo 200; echo 200; echo 200"),
        [200, 200, 200, 502],
        ["", "", "", "no result line"],
    ),
    Case("nothing", ["true"], [502] * 4, ["no result line"] * 4),
    Case(
        "too-many",
        shell("seq -f '200 line %g' 7"),
        [200] * 4,
        [""] * 4,
        output="ignored 3 result lines beyond the last job",
    ),
    Case(
        "endless",
        shell("while :; do echo 200 flood; done"),
        [200] * 4,
        [""] * 4,
        {"timeout": "1s"},
        output=r"ignored \d+ result lines beyond the last job",
    ),
    Case(
        "ignores-sigterm",
        python("import signal; signal.signal(15, signal.SIG_IGN)\nwhile 1: signal.pause()"),
        [504] * 4,
        ["timed out after 1000 ms"] * 4,
        ALONE | {"timeout": "1s"},
    ),
    Case(
        "hangs-with-children",
        shell("trap '' TERM; sleep 1000 & sleep 1000 & wait; sleep 1000"),
        [504] * 4,
        ["timed out after 1000 ms"] * 4,
        ALONE | {"timeout": "1s"},
    ),
    Case(
        "fills-stderr",
        python("import os\nfor _ in range(160): os.write(2, b'e' * 65536)\nos._exit(9)"),
        [500] * 4,
        ["exit code 9"] * 4,
        output="e{1000}",
    ),
    Case(
        "fills-stderr-and-answers",
        python(
            "import os\nfor _ in range(160): os.write(2, b'e' * 65536)\nprint('200 fine\\n' * 4)"
        ),
        [200] * 4,
        [""] * 4,
        output="e{1000}",
    ),
    Case("closes-stdin", shell("exec <&-; exit 0"), [502] * 4, ["no result line"] * 4),
    Case(
        "closes-stdin-and-answers",
        shell("exec <&-; echo 200; echo 200; echo 200; echo 200"),
        [200] * 4,
        [""] * 4,
    ),
    Case("closes-stdout", shell("exec >&- 2>&-; cat"), [500] * 4, ["exit code 1"] * 4),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all: what a command does must not harm what comes after it."""
    with Node(tmp_path_factory.mktemp("node"), SLIMQ_RUN__EXEC_SLOTS="8") as node:
        node.put("sound", lang="exec", body=ECHO)
        yield node
        assert node.quit() == 0
        assert not [line for line in node.log if '"level":"error"' in line]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_jobs_concerned_say_what_was_wrong_and_others_are_unharmed(
    node: Node, case: Case
) -> None:
    options = {"max_failures": 1, "backoff": {"min": "1ms", "max": "1ms"}, **case.options}
    node.put(case.name, lang="exec", body=case.command, options=options)
    ids = node.add(case.name, LINES)
    sound = node.add("sound", LINES)
    assert [node.done(id_)["result"] for id_ in sound] == ["a", "b", "c", "d"]
    jobs = [node.done(id_) for id_ in ids]
    assert [job["status"] for job in jobs] == case.statuses
    for job, error in zip(jobs, case.errors, strict=True):
        assert re.fullmatch(error, job["error"]), job["error"]
        assert job["outcome"] == ("ok" if job["status"] == 200 else "error")
        assert re.search(case.output, job["runs"][-1]["output"])
        assert len(job["runs"][-1]["output"]) <= 65536
    assert node.problems() == ""


def test_big_data_that_nobody_reads_hurts_nobody(node: Node) -> None:
    node.put("reads-nothing", lang="exec", body=["echo", "200"])
    node.put("reads-one", lang="exec", body=["sh", "-c", "read -r x; echo 200; echo 200"])
    big = [b"x" * 1_000_000] * 2
    ids = node.add("reads-one", big) + node.add("reads-nothing", big[:1])
    assert [node.done(id_)["status"] for id_ in ids] == [200, 200, 200]


def test_a_command_is_tried_as_often_as_the_handler_says_and_then_given_up(node: Node) -> None:
    backoff = {"min": "1ms", "max": "1ms"}
    options = {"max_failures": 3, "backoff": backoff}
    node.put("hopeless", lang="exec", body=["false"], options=options)
    (id_,) = node.add("hopeless", [b"x"])
    job = node.done(id_)
    assert (job["status"], job["attempt"], job["failures"]) == (500, 3, 3)
    assert [run["error"] for run in job["runs"]] == ["exit code 1"] * 3
    assert [found["id"] for found in node.jobs(jobtype="hopeless", outcome="error")] == [id_]
    node.put("hopeless", lang="exec", body=ECHO)  # mended, and replayed in bulk
    assert node.call("POST", "/jobs/retry?jobtype=hopeless&outcome=error") == {"count": 1}
    assert node.done(id_)["result"] == "x"


def test_nothing_is_left_of_commands_that_misbehaved(node: Node) -> None:
    wait_until(lambda: commands_of(node) == [], "all commands are buried")
    before = descriptors(node)
    handler = {"lang": "exec", "body": ["sh", "-c", "exec 0<&- 1>&- 2>&-; kill -9 $$"]}
    options = {"max_failures": 1, "batch_size": 1, "backoff": {"min": "1ms", "max": "1ms"}}
    node.call("PUT", "/handlers/dies-often", json.dumps(handler | {"options": options}).encode())
    for id_ in node.add("dies-often", [b"x"] * 100):
        assert node.done(id_)["status"] == 520
    wait_until(lambda: commands_of(node) == [], "all commands are buried")
    assert descriptors(node) <= before + 2  # connections of this test may be closing still


def descriptors(node: Node) -> int:
    return len(list(Path("/proc", str(node.process.pid), "fd").iterdir()))
