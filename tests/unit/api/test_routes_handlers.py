"""`/handlers…`: put, list, versions, rollback, delete."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from routes_kit import Bench, Reply

from slimq.core.limits import (
    ARGV_MAX,
    FUNCTION_BYTES_MAX,
    HANDLER_BODY_MAX,
    INVOKE_LINES_MAX,
    JSON_BODY_MAX,
    URL_MAX,
)

EXEC = {"lang": "exec", "body": ["cat"]}


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_a_first_version_is_created_and_a_later_one_replaces_it(bench: Bench):
    first = bench.put("/handlers/mail", {**EXEC, "options": {"timeout": "5m"}})
    assert first.status == 201
    assert first.json == {
        "client": "*",
        "jobtype": "mail",
        "version": 1,
        "lang": "exec",
        "body": ["cat"],
        "options": {"timeout": "5m"},
        "created_at": "2026-11-18T11:06:40.000Z",
        "warnings": [],
    }
    second = bench.put("/handlers/mail", {"lang": "http", "body": "https://example.com/"})
    assert (second.status, second.json["version"]) == (200, 2)
    shown = bench.get("/handlers/mail").json
    assert (shown["version"], shown["body"]) == (2, "https://example.com/")
    assert bench.node.woken == 2


def test_a_client_has_a_handler_of_its_own_beside_that_for_every_client(bench: Bench):
    bench.handler("mail")
    assert bench.get("/handlers/mail?client=acme").slug == "not-found"
    assert bench.handler("mail", "acme", body=["tac"]).status == 201
    assert bench.get("/handlers/mail?client=acme").json["body"] == ["tac"]
    assert bench.get("/handlers/mail").json["body"] == ["cat"]


def test_handlers_are_listed_in_pages(bench: Bench):
    for client in ("*", "acme", "zulu"):
        for jobtype in ("mail", "sms"):
            bench.handler(jobtype, client)
    seen: list[str] = []
    target: str | None = "/handlers?limit=4"
    while target:
        page = bench.get(target).json
        seen += [f"{handler['client']}/{handler['jobtype']}" for handler in page["handlers"]]
        target = page["next"] and f"/handlers?limit=4&after={page['next']}"
    assert seen == ["*/mail", "*/sms", "acme/mail", "acme/sms", "zulu/mail", "zulu/sms"]
    of_acme = bench.get("/handlers?client=acme&jobtype=sms").json["handlers"]
    assert [handler["client"] for handler in of_acme] == ["acme"]
    assert len(bench.get("/handlers?client=*").json["handlers"]) == 2
    assert bench.get("/handlers?after=x").slug == "bad-parameter"


def test_versions_are_kept_and_an_older_one_comes_back_by_rollback(bench: Bench):
    for word in ("one", "two", "three"):
        bench.handler("mail", body=[word])
    assert bench.post("/handlers/mail/rollback").json["body"] == ["two"]
    versions = bench.get("/handlers/mail/versions").json["versions"]
    assert [(each["version"], each["current"]) for each in versions] == [
        (3, False),
        (2, True),
        (1, False),
    ]
    assert bench.post("/handlers/mail/rollback?version=3").json["version"] == 3
    assert bench.get("/handlers/mail").json["body"] == ["three"]
    assert bench.node.woken == 5


def test_a_rollback_to_what_there_is_not_is_not_found(bench: Bench):
    assert bench.post("/handlers/mail/rollback").slug == "not-found"
    bench.handler("mail")
    assert bench.post("/handlers/mail/rollback").slug == "not-found"
    assert bench.post("/handlers/mail/rollback?version=7").slug == "not-found"
    assert bench.post("/handlers/mail/rollback?version=0").slug == "bad-parameter"
    assert bench.node.woken == 1


def test_a_deleted_handler_is_gone_with_its_versions(bench: Bench):
    bench.handler("mail")
    assert bench.delete("/handlers/mail").json == {"ok": True}
    assert bench.get("/handlers/mail").slug == "not-found"
    assert bench.get("/handlers/mail/versions").slug == "not-found"
    assert bench.delete("/handlers/mail").slug == "not-found"
    assert bench.node.woken == 2


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "lang"),
        ({**EXEC, "lang": "python"}, "body"),
        ({**EXEC, "options": {"memory": "1GiB"}}, "options.memory"),
        ({"lang": "python", "body": {"../x.py": ""}}, "body"),
        ({"lang": "python", "body": {"a.txt": ""}}, "body"),
        ({"lang": "python", "body": "x" * (FUNCTION_BYTES_MAX + 1)}, "body"),
        ({"lang": "python", "body": "", "options": {"memory": "1MiB"}}, "options.memory"),
        ({"lang": "python", "body": "", "options": {"cpus": 0}}, "options.cpus"),
        ({"lang": "python", "body": "", "options": {"cpus": True}}, "options.cpus"),
        ({"lang": "python", "body": "", "options": {"cpus": "2"}}, "options.cpus"),
        ({**EXEC, "options": {"cpus": 1}}, "options.cpus"),
        ({"lang": "python", "body": "", "options": {"event": "text"}}, "options.event"),
        ({"lang": "python", "body": "", "options": {"result": "exit"}}, "options.result"),
        ({"lang": "python", "body": "", "options": {"handler": "a-b"}}, "options.handler"),
        ({"lang": "python", "body": "", "options": {"handler": "other.go"}}, "options.handler"),
        ({**EXEC, "lang": ["exec"]}, "lang"),
        ({**EXEC, "lang": "exe"}, "lang"),
        ({"lang": "exec"}, "body"),
        ({"lang": "exec", "body": "cat"}, "body"),
        ({"lang": "exec", "body": []}, "body"),
        ({"lang": "exec", "body": [""]}, "body[0]"),
        ({"lang": "exec", "body": ["a", 1]}, "body"),
        ({"lang": "exec", "body": ["a\0b"]}, "body"),
        ({"lang": "exec", "body": ["a"] * (ARGV_MAX + 1)}, "body"),
        ({"lang": "exec", "body": ["a" * (HANDLER_BODY_MAX + 1)]}, "body"),
        ({"lang": "http", "body": ""}, "body"),
        ({"lang": "http", "body": ["https://example.com/"]}, "body"),
        ({"lang": "http", "body": "https://" + "a" * URL_MAX}, "body"),
        ({**EXEC, "options": []}, "options"),
        ({**EXEC, "options": {"retries": 3}}, "options.retries"),
        ({**EXEC, "options": {"timeout": 90}}, "options.timeout"),
        ({**EXEC, "options": {"timeout": "soon"}}, "options.timeout"),
        ({**EXEC, "options": {"batch_size": True}}, "options.batch_size"),
        ({**EXEC, "options": {"batch_size": 0}}, "options.batch_size"),
        ({**EXEC, "options": {"concurrency": 0}}, "options.concurrency"),
        ({**EXEC, "options": {"retry_on": [1], "fail_on": [1]}}, "options.retry_on"),
        ({**EXEC, "options": {"backoff": {"min": "1h", "max": "1s"}}}, "options.backoff"),
        ({**EXEC, "options": {"result": "json"}}, "options.result"),
        ({"lang": "http", "body": "x", "options": {"result": "exit"}}, "options.result"),
        ({**EXEC, "eid": "x"}, "eid"),
        ({**EXEC, "before": "x"}, "before"),
        ({**EXEC, "url": "x"}, "url"),
    ],
)
def test_a_handler_that_cannot_be_is_refused_by_the_path_of_the_field(
    bench: Bench, document: dict[str, Any], field: str
):
    reply = bench.put("/handlers/mail", document)
    assert (reply.status, reply.slug) == (422, "bad-handler")
    assert reply.json["field"] == field
    assert bench.get("/handlers/mail").slug == "not-found"
    assert bench.node.woken == 0


def test_an_unknown_option_is_named_but_not_repeated_at_any_length(bench: Bench):
    reply = bench.put("/handlers/mail", {**EXEC, "options": {"o" * 100_000: 1}})
    assert (reply.status, reply.json["field"]) == (422, "options." + "o" * 64)
    assert len(reply.body) < 1000


def test_a_handler_that_no_runner_can_run_is_refused_and_not_kept(bench: Bench):
    bench.node.refused_commands = {"missing"}
    reply = bench.put("/handlers/mail", {"lang": "exec", "body": ["missing"]})
    assert (reply.status, reply.json["field"]) == (422, "body[0]")
    assert bench.get("/handlers/mail").slug == "not-found"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(bench: Bench, body: bytes):
    reply = bench.run(bench.call("PUT", "/handlers/mail", body))
    assert (reply.status, reply.slug) == (400, "bad-body")


def test_a_body_is_bounded(bench: Bench):
    reply = bench.run(bench.call("PUT", "/handlers/mail", b" " * (JSON_BODY_MAX + 1)))
    assert (reply.status, reply.slug) == (413, "body-too-large")


@pytest.mark.parametrize("target", ["/handlers/a%20b", "/handlers/-a", "/handlers/a?client=b%20c"])
def test_a_malformed_name_is_refused(bench: Bench, target: str):
    assert bench.put(target, EXEC).slug == "bad-name"


# Functions.

SOURCE = "def handler(event, context): pass\n"


def zip_of(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.py", content)
    return stream.getvalue()


def upload(bench: Bench, body: bytes, query: str = "lang=python") -> Reply:
    return bench.run(bench.call("PUT", f"/handlers/mail?{query}", body))


def test_a_function_is_stored_whole_and_shown_by_its_files(bench: Bench):
    files = {"main.py": SOURCE, "lib/logo.png": {"base64": "iVBORw=="}}
    stored = bench.put("/handlers/mail", {"lang": "python", "body": files})
    assert (stored.status, "body" in stored.json) == (201, False)
    sizes = {"main.py": len(SOURCE), "lib/logo.png": 4}
    assert stored.json["files"] == sizes
    assert bench.get("/handlers").json["handlers"][0]["files"] == sizes
    assert bench.get("/handlers/mail/versions").json["versions"][0]["files"] == sizes
    assert bench.get("/handlers/mail").json["body"] == files


def test_the_source_of_a_function_is_uploaded_as_it_is(bench: Bench):
    assert upload(bench, SOURCE.encode()).json["files"] == {"main.py": len(SOURCE)}
    assert upload(bench, zip_of(main=SOURCE, lib="")).json["files"] == {
        "lib.py": 0,
        "main.py": len(SOURCE),
    }
    assert bench.get("/handlers/mail").json["body"] == {"lib.py": "", "main.py": SOURCE}
    optioned = upload(bench, SOURCE.encode(), "lang=python&options=" + quote('{"timeout":"5m"}'))
    assert optioned.json["options"] == {"timeout": "5m"}


@pytest.mark.parametrize(
    ("body", "query", "slug"),
    [
        (b"\xff", "lang=python", "bad-handler"),
        (b"PK\x03\x04 and no more", "lang=python", "bad-handler"),
        (SOURCE.encode(), "lang=exec", "bad-parameter"),
        (SOURCE.encode(), "lang=python&options={", "bad-parameter"),
        (SOURCE.encode(), "lang=python&options=[]", "bad-handler"),
        (SOURCE.encode(), 'lang=python&options={"x":1}', "bad-handler"),
        (b'{"lang":"exec","body":["cat"]}', "options={}", "bad-parameter"),
    ],
)
def test_an_upload_that_is_none_is_refused(bench: Bench, body: bytes, query: str, slug: str):
    assert upload(bench, body, quote(query, safe="=&")).slug == slug
    assert bench.get("/handlers/mail").slug == "not-found"


def test_a_function_that_cannot_be_loaded_is_refused_and_the_old_version_stays(bench: Bench):
    assert upload(bench, SOURCE.encode()).status == 201
    bench.node.refused_source = "nonsense"
    assert upload(bench, b"nonsense").slug == "bad-handler"
    assert bench.get("/handlers/mail").json["version"] == 1
    assert len(bench.get("/handlers/mail/versions").json["versions"]) == 1
    assert len(bench.node.tried) == 2
    assert bench.node.woken == 1


def test_commands_and_urls_are_not_tried_out(bench: Bench):
    bench.handler("mail")
    assert bench.node.tried == []


def test_an_older_version_is_shown_whole(bench: Bench):
    upload(bench, SOURCE.encode())
    upload(bench, b"def handler(event, context): return 1")
    assert bench.get("/handlers/mail?version=1").json["body"] == SOURCE
    assert bench.get("/handlers/mail?version=3").slug == "not-found"


def test_a_try_runs_the_handler_of_the_client_and_stores_nothing(bench: Bench):
    bench.handler("mail")
    bench.handler("mail", "acme", body=["tac"])
    reply = bench.post("/handlers/mail/invoke?client=acme", b"one\n\xff\n")
    assert reply.json["results"] == [
        {
            "status": 200,
            "outcome": "ok",
            "result": "one",
            "error": "",
            "children": [{"jobtype": "log", "data": "one"}],
        },
        {
            "status": 200,
            "outcome": "ok",
            "result_base64": "/w==",
            "error": "",
            "children": [{"jobtype": "log", "data_base64": "/w=="}],
        },
    ]
    assert (reply.json["client"], reply.json["output"]) == ("acme", "said")
    assert bench.post("/handlers/mail/invoke", b"one").json["client"] == "*"
    assert [each for each, _ in bench.node.invoked] == ["acme/mail", "main/mail"]
    assert bench.get("/jobs").json["jobs"] == []


def test_an_older_version_can_be_tried(bench: Bench):
    bench.handler("mail", body=["one"])
    bench.handler("mail", body=["two"])
    assert bench.post("/handlers/mail/invoke?version=1", b"x").json["version"] == 1
    assert bench.post("/handlers/mail/invoke?version=9", b"x").slug == "not-found"


@pytest.mark.parametrize("body", [b"", b"\n" * (INVOKE_LINES_MAX + 1)])
def test_a_try_has_some_lines_and_not_too_many(bench: Bench, body: bytes):
    bench.handler("mail")
    assert bench.post("/handlers/mail/invoke", body).slug == "bad-body"


def test_a_try_is_for_one_client(bench: Bench):
    bench.handler("mail")
    assert bench.post("/handlers/mail/invoke?client=*", b"x").slug == "bad-parameter"
