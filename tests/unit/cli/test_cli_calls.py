"""The commands that ask a node or tell it something: which call they make, what they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slimq.cli.top import Sample, figures
from slimq.system.clock import SystemClock

JOB = {
    "id": "ID-1",
    "type": "main/echo",
    "client": "main",
    "jobtype": "echo",
    "state": "done",
    "outcome": "failed",
    "status": 404,
    "attempt": 1200,
    "failures": 0,
    "crashes": 0,
    "accepted_at": "2026-11-24T09:30:00.000Z",
    "due_at": "2026-11-24T09:30:00.000Z",
    "finished_at": "2026-11-24T09:30:01.000Z",
    "error": "",
}
RUN = {
    "attempt": 1,
    "status": 404,
    "outcome": "failed",
    "node": "SYSID",
    "started_at": "2026-11-24T09:30:00.500Z",
    "ended_at": "2026-11-24T09:30:01.000Z",
    "result": "no such thing",
    "error": "",
    "output_base64": "/w==",
}
TYPE = {
    "type": "main/echo",
    "client": "main",
    "jobtype": "echo",
    "waiting": 1_234_567,
    "running": 3,
    "ok": 10,
    "failed": 0,
    "error": 0,
    "oldest_wait_ms": 65_000,
    "next_at": None,
    "hold_until": None,
    "handler": {"client": "*", "version": 2, "lang": "exec"},
    "paused": False,
    "weight": 1,
    "concurrency": None,
    "batch_size": 100,
}
HANDLER = {
    "client": "*",
    "jobtype": "echo",
    "version": 2,
    "lang": "exec",
    "body": ["sed", "s/^/200 /"],
    "options": {"timeout": "90s"},
    "created_at": "2026-11-24T09:30:00.000Z",
}
POLICY = {
    "client": "*",
    "jobtype": "echo",
    "paused": True,
    "weight": None,
    "concurrency": 4,
    "batch_size": None,
}

NODE = {
    "sysid": "nodeAAAA",
    "state": "alive",
    "silent_ms": 4200,
    "started_at": "2026-11-24T09:00:00.000Z",
    "seen_at": "2026-11-24T09:30:00.000Z",
    "version": "0.1.0",
    "roles": ["accept", "run"],
    "host": "alpha",
    "url": "http://127.0.0.1:3001",
    "worker": 1,
    "pid": 4711,
    "data": "/var/lib/slimq",
    "journal_pending_bytes": 0,
    "clock_skew_ms": -3,
}


def status(*, accepted: int = 0, ok: int = 0, failed: int = 0, error: int = 0) -> dict[str, Any]:
    return {
        "sysid": "SYSID",
        "version": "0.1.0",
        "state": "running",
        "node": {
            "store": {"error": None},
            "journal": {"error": None, "pending_bytes": 2048},
            "engine": {"oldest_waiting_ms": 65_000, "running_jobs": 3},
            "counters": {
                "accepted": accepted,
                "finished": {"ok": ok, "failed": failed, "error": error},
            },
        },
        "store": {"up": True, "error": None},
        "jobs": {"waiting": 7, "running": 3, "ok": 1, "failed": 2, "error": 5},
        "nodes": [],
        "types_without_handler": ["main/lost"],
    }


READING = {
    ("jobs", "ls"): ("/jobs", {"jobs": [JOB], "next": "ID-0"}),
    ("jobs", "get", "ID-1"): ("/jobs/ID-1", {**JOB, "data": "x", "result": "", "runs": [RUN]}),
    ("types", "ls"): ("/types", {"types": [TYPE], "next": None}),
    ("types", "get", "echo"): ("/types/echo", TYPE),
    ("fn", "ls"): ("/handlers", {"handlers": [HANDLER], "next": None}),
    ("fn", "get", "echo"): ("/handlers/echo", HANDLER),
    ("fn", "versions", "echo"): (
        "/handlers/echo/versions",
        {"versions": [{**HANDLER, "current": True}]},
    ),
    ("status",): ("/status", status()),
    ("nodes", "ls"): ("/nodes", {"nodes": [NODE]}),
}
CHANGING = {
    ("jobs", "retry", "ID-1"): ("POST", "/jobs/ID-1/retry", JOB),
    ("jobs", "cancel", "ID-1"): ("POST", "/jobs/ID-1/cancel", JOB),
    ("jobs", "retry", "--jobtype", "echo"): ("POST", "/jobs/retry", {"count": 2}),
    ("jobs", "cancel", "--all"): ("POST", "/jobs/cancel", {"count": 2}),
    ("types", "pause", "echo"): ("POST", "/types/echo/pause", POLICY),
    ("types", "resume", "echo"): ("POST", "/types/echo/resume", POLICY),
    ("types", "set", "echo", "--weight", "3"): ("PATCH", "/types/echo", POLICY),
    ("types", "purge", "echo", "--yes"): ("POST", "/types/echo/purge", {"count": 2}),
    ("fn", "put", "echo", "--http", "http://h/"): ("PUT", "/handlers/echo", HANDLER),
    ("fn", "rm", "echo", "--yes"): ("DELETE", "/handlers/echo", {"ok": True}),
    ("fn", "rollback", "echo"): ("POST", "/handlers/echo/rollback", HANDLER),
    ("start",): ("POST", "/start", {"ok": True, "state": "running"}),
    ("stop",): ("POST", "/stop", {"ok": True, "state": "stopped"}),
    ("quit",): ("POST", "/quit", {"ok": True, "state": "quitting"}),
}


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_reading_command_prints_with_json_what_the_node_answered(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    path, document = READING[words]
    node.answer("GET", path, document)
    said = slimq(*words, "--json")
    assert (said.code, said.err, said.json) == (0, "", document)


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_reading_command_prints_lines_for_people_otherwise(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    path, document = READING[words]
    node.answer("GET", path, document)
    said = slimq(*words)
    assert said.code == 0
    assert "{'" not in said.out
    assert "None" not in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_changing_command_calls_the_node_and_says_what_to_do_next(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    method, path, document = CHANGING[words]
    node.answer(method, path, document)
    said = slimq(*words)
    assert said.code == 0
    assert said.out
    assert said.err.startswith("next: ")
    assert [(each.method, each.path) for each in node.received] == [(method, path)]


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_changing_command_prints_json_too(slimq: Any, node: Any, words: tuple[str, ...]) -> None:
    method, path, document = CHANGING[words]
    node.answer(method, path, document)
    said = slimq(*words, "--json")
    assert said.json == ({"count": 1} if "ID-1" in words else document)
    assert said.err == ""


def test_a_table_of_jobs_leads_to_its_next_page(slimq: Any, node: Any) -> None:
    node.answer("GET", "/jobs", {"jobs": [JOB], "next": "ID-0"})
    said = slimq("jobs", "ls", "--outcome", "failed", "--limit", "1")
    assert node.last.query == {"outcome": "failed", "limit": "1"}
    title, row = said.out.splitlines()
    assert title.split() == ["id", "type", "state", "status", "attempt", "due", "error"]
    assert row.split() == ["ID-1", "main/echo", "done", "404", "1,200", JOB["due_at"], "-"]
    assert said.err == "next: the same with --before ID-0\n"


def test_since_may_be_a_duration_ago(slimq: Any, node: Any) -> None:
    node.answer("GET", "/jobs", {"jobs": [], "next": None})
    before = SystemClock().wall_ms()
    slimq("jobs", "ls", "--since", "2h", "--until", "2026-11-24T00:00:00Z")
    since = int(node.last.query["since"])
    assert before <= since + 2 * 3_600_000 <= SystemClock().wall_ms()
    assert node.last.query["until"] == "2026-11-24T00:00:00Z"


def test_a_job_is_shown_with_data_result_and_runs(slimq: Any, node: Any) -> None:
    job = {**JOB, "data": "one\ntwo", "result_base64": "/w==", "runs": [RUN]}
    node.answer("GET", "/jobs/ID-1", job)
    said = slimq("jobs", "get", "ID-1", "--wait", "30")
    assert node.last.query == {"wait": "30"}
    assert "\ndata:\none\ntwo\n" in said.out
    assert "\nresult_base64:\n/w==\n" in said.out
    assert "run 1: 404 failed" in said.out
    assert "no such thing" in said.out
    assert "output_base64:\n/w==" in said.out
    assert said.err == "next: slimq jobs retry ID-1\n"


def test_nothing_that_a_job_holds_reaches_the_terminal_as_a_control_sequence(
    slimq: Any, node: Any
) -> None:
    hostile = "a\x1b[2J\r\x9b31m\u202eb"
    run = {**RUN, "error": hostile, "result": hostile, "output": hostile}
    job = {**JOB, "error": hostile, "data": hostile, "result": hostile, "runs": [run]}
    node.answer("GET", "/jobs/ID-1", job)
    node.answer("GET", "/jobs", {"jobs": [job], "next": None})
    for words in (("jobs", "get", "ID-1"), ("jobs", "ls"), ("jobs", "ls", "--json")):
        said = slimq(*words)
        assert all(line.isprintable() for line in said.out.split("\n"))


def test_an_id_is_one_part_of_the_path_whatever_it_holds(slimq: Any, node: Any) -> None:
    slimq("jobs", "get", "../types?x=1")
    assert node.last.path == "/jobs/..%2Ftypes%3Fx%3D1"


@pytest.mark.parametrize("verb", ["retry", "cancel"])
@pytest.mark.parametrize(
    "words", [(), ("ID-1", "--all"), ("ID-1", "--jobtype", "x"), ("--all", "--jobtype", "x")]
)
def test_which_jobs_change_is_said_in_one_way(
    slimq: Any, node: Any, verb: str, words: tuple[str, ...]
) -> None:
    said = slimq("jobs", verb, *words)
    assert (said.code, node.received) == (2, [])
    assert "say which jobs" in said.err


def test_several_jobs_are_changed_one_by_one(slimq: Any, node: Any) -> None:
    node.answer("POST", "/jobs/A/retry", JOB)
    node.answer("POST", "/jobs/B/retry", JOB)
    assert slimq("jobs", "retry", "A", "B", "--json").json == {"count": 2}


def test_all_jobs_are_changed_only_when_that_is_said(slimq: Any, node: Any) -> None:
    node.answer("POST", "/jobs/cancel", {"count": 1200})
    assert slimq("jobs", "cancel", "--all").out == "1,200 cancelled\n"
    assert node.last.query == {"all": "true"}


def test_limits_are_set_and_unset(slimq: Any, node: Any) -> None:
    node.answer("PATCH", "/types/echo", POLICY)
    slimq("types", "set", "echo", "--weight", "3", "--batch-size", "none", "--client", "me")
    assert json.loads(node.last.body) == {"weight": 3, "batch_size": None}
    assert node.last.query == {"client": "me"}
    assert slimq("types", "set", "echo", "--concurrency", "many").code == 2
    assert slimq("types", "set", "echo").code == 2
    assert len(node.received) == 1


def test_a_type_without_handler_is_pointed_at(slimq: Any, node: Any) -> None:
    node.answer("GET", "/types", {"types": [{**TYPE, "handler": None}], "next": None})
    assert slimq("types", "ls").err == ("next: slimq fn put echo ... (main/echo has no handler)\n")


@pytest.mark.parametrize(
    "words", [words for words in CHANGING if words[0] in ("types", "fn")], ids=" ".join
)
def test_the_next_step_is_about_the_same_client(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    node.answer(*CHANGING[words])
    steps = slimq(*words, "--client", "acme").err.splitlines()
    assert steps
    assert all(re.search(r" --client '?acme'?( |$)", step) for step in steps)


@pytest.mark.parametrize("words", [("types", "purge", "echo"), ("fn", "rm", "echo")])
def test_what_cannot_be_undone_is_asked_first(node: Any, words: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "slimq", *words, "--url", node.url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 130
    assert b"[y/N]" in ended.stderr
    assert node.received == []


def put_body(slimq: Any, node: Any, *words: str) -> Any:
    node.answer("PUT", "/handlers/echo", HANDLER, 201)
    said = slimq("fn", "put", "echo", *words)
    assert said.code == 0, said.err
    return json.loads(node.last.body)


def test_all_words_after_exec_are_the_command(slimq: Any, node: Any) -> None:
    words = ["--client", "me", "--exec", "sed", "-e", "s/^/200 /", "--url", "--", "--help"]
    body = put_body(slimq, node, *words)
    assert body == {"lang": "exec", "body": ["sed", "-e", "s/^/200 /", "--url", "--", "--help"]}
    assert node.last.query == {"client": "me"}


def test_options_are_json_or_else_text(slimq: Any, node: Any) -> None:
    pairs = ["timeout=90s", "batch_size=100", "ordered=true", "retry_on=[404, 410]"]
    pairs.append('backoff={"min": "1s"}')
    options = [word for pair in pairs for word in ("--option", pair)]
    body = put_body(slimq, node, *options, "--http", "https://example.com/hook")
    assert body == {
        "lang": "http",
        "body": "https://example.com/hook",
        "options": {
            "timeout": "90s",
            "batch_size": 100,
            "ordered": True,
            "retry_on": [404, 410],
            "backoff": {"min": "1s"},
        },
    }


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[" * 100_000, "9" * 5000])
def test_an_option_that_is_no_json_a_node_could_read_is_text(
    slimq: Any, node: Any, text: str
) -> None:
    body = put_body(slimq, node, "--option", f"timeout={text}", "--exec", "cat")
    assert body["options"] == {"timeout": text}


def test_numbers_and_nestings_beyond_all_bounds_are_wrong_usage(
    slimq: Any, node: Any, tmp_path: Path
) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert slimq("fn", "put", "echo", "--file", str(tmp_path / "deep.json")).code == 2
    assert slimq("types", "set", "echo", "--weight", "9" * 5000).code == 2
    assert node.received == []


def test_a_handler_is_read_from_a_file_and_options_are_added(
    slimq: Any, node: Any, tmp_path: Path
) -> None:
    handler = {"lang": "exec", "body": ["cat"], "options": {"timeout": "1s", "result": "exit"}}
    path = tmp_path / "handler.json"
    path.write_text(json.dumps(handler))
    body = put_body(slimq, node, "--file", str(path), "--option", "timeout=2s")
    assert body == {**handler, "options": {"timeout": "2s", "result": "exit"}}


@pytest.mark.parametrize("text", ["{", "[]", '{"options": []}'])
def test_a_file_that_is_no_handler_is_wrong_usage(
    slimq: Any, node: Any, tmp_path: Path, text: str
) -> None:
    (tmp_path / "handler.json").write_text(text)
    said = slimq("fn", "put", "echo", "--file", str(tmp_path / "handler.json"))
    assert (said.code, node.received) == (2, [])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--http", "http://h/", "--exec", "cat"),
        ("--http", "http://h/", "--option", "timeout"),
        ("--http", "http://h/", "--option", "=1"),
    ],
)
def test_a_put_that_is_not_one_thing_is_wrong_usage(
    slimq: Any, node: Any, words: tuple[str, ...]
) -> None:
    assert slimq("fn", "put", "echo", *words).code == 2
    assert node.received == []


def test_the_status_says_what_is_wrong_and_what_to_do(slimq: Any, node: Any) -> None:
    node.answer("GET", "/status", status())
    said = slimq("status")
    assert "oldest wait     65 s" in said.out
    assert "journal behind  2.0 KiB" in said.out
    assert "store           ok" in said.out
    assert said.err == "next: slimq fn put lost ...\n"
    down = {**status(), "store": {"up": False, "error": "database is locked"}}
    node.answer("GET", "/status", down)
    said = slimq("status")
    assert "database is locked" in said.out
    assert said.err == "next: slimq doctor, on the machine of the node\n"


def test_top_measures_rates_between_two_looks() -> None:
    idle = {**TYPE, "type": "main/idle", "waiting": 0, "running": 0, "oldest_wait_ms": 0}
    before = Sample(10_000, status(accepted=100), [])
    now = Sample(12_000, status(accepted=1100, ok=600, failed=40, error=60), [idle, TYPE])
    shown = figures(before, now)
    assert (shown["accepted_rate"], shown["ok_rate"], shown["failed_rate"]) == (500, 300, 50)
    assert (shown["waiting"], shown["running"]) == (7, 3)
    assert (shown["oldest_wait_ms"], shown["journal_pending_bytes"]) == (65_000, 2048)
    assert [each["type"] for each in shown["types"]] == ["main/echo", "main/idle"]


def test_top_shows_a_screen_without_control_sequences_when_nobody_watches(
    slimq: Any, node: Any
) -> None:
    node.answer("GET", "/status", status(accepted=5))
    node.answer("GET", "/types", {"types": [TYPE], "next": None})
    assert slimq("top", "--once", "--json").json["accepted_rate"] == 0
    said = slimq("top", "--once")
    assert "\x1b" not in said.out
    assert "accept 0/s   done 0/s   failed 0/s" in said.out
    assert "waiting 7   running 3   oldest wait 65 s   journal behind 2.0 KiB" in said.out
    assert "1,234,567" in said.out


def test_top_goes_on_while_the_store_is_down(slimq: Any, node: Any) -> None:
    down = {**status(), "store": {"up": False, "error": "disk I/O error"}, "jobs": {}}
    node.answer("GET", "/status", down)
    said = slimq("top", "--once")
    assert said.code == 0
    assert "waiting ?" in said.out
    assert "store: disk I/O error" in said.out
    assert "/types" not in [each.path for each in node.received]


def test_a_table_of_nodes_shows_each_and_asks_for_nothing_when_all_live(
    slimq: Any, node: Any
) -> None:
    node.answer("GET", "/nodes", {"nodes": [NODE]})
    said = slimq("nodes", "ls")
    assert said.out.splitlines()[1].split() == [
        *("nodeAAAA", "alive", "accept,run", "4.2", "s", "ago", "0", "B", "-3"),
        *("0.1.0", "alpha", "http://127.0.0.1:3001"),
    ]
    assert said.err == ""


def test_a_silent_or_dead_node_is_listed_with_what_to_do_next(slimq: Any, node: Any) -> None:
    silent = {**NODE, "state": "silent", "silent_ms": 16_000}
    dead = {**NODE, "state": "dead", "silent_ms": 99_000, "journal_pending_bytes": 2048}
    node.answer("GET", "/nodes", {"nodes": [NODE, silent, dead]})
    first, second = slimq("nodes", "ls").err.splitlines()
    assert "is silent: slimq status --url http://127.0.0.1:3001" in first
    assert "slimq doctor on alpha (data folder /var/lib/slimq)" in first
    assert "start it again on alpha (data folder /var/lib/slimq)" in second
    assert "its journal holds 2.0 KiB" in second


def test_a_node_of_another_version_may_say_nothing_of_itself(slimq: Any, node: Any) -> None:
    kept = ("sysid", "state", "silent_ms", "started_at", "seen_at")
    quiet = {name: value if name in kept else None for name, value in NODE.items()}
    node.answer("GET", "/nodes", {"nodes": [{**quiet, "state": "dead"}]})
    said = slimq("nodes", "ls")
    assert said.code == 0
    assert "None" not in said.out + said.err
