"""A real node as a process: lines go in by HTTP, a real command and a real URL get them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import ECHO, Node, wait_until
from standardwebhooks.webhooks import Webhook


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path) as node:
        yield node


def test_every_line_is_run_by_the_command_and_the_node_ends_with_0(node: Node) -> None:
    node.put("echo", lang="exec", body=ECHO)
    lines = [b"line %d" % number for number in range(1000)]
    ids = node.add("echo", lines)
    for index in (0, 500, 999):
        job = node.done(ids[index])
        assert (job["status"], job["result"]) == (200, lines[index].decode())
    counts = node.call("GET", "/types/echo?client=main")
    assert (counts["ok"], counts["waiting"], counts["running"]) == (1000, 0, 0)
    assert node.quit() == 0


def test_what_was_acknowledged_before_a_kill_runs_after_the_restart(node: Node) -> None:
    ids = node.add("later", [b"a", b"b", b"c"])
    node.kill()
    node.start()
    node.put("later", lang="exec", body=ECHO)
    assert [node.done(id_)["result"] for id_ in ids] == ["a", "b", "c"]


def test_jobs_that_ran_when_the_node_was_killed_run_again_at_once(node: Node) -> None:
    marker = node.folder / "marker"
    script = f"if [ -e {marker} ]; then sed 's/^/200 /'; else touch {marker}; sleep 60; fi"
    node.put("hang", lang="exec", body=["sh", "-c", script])
    (id_,) = node.add("hang", [b"x"])
    wait_until(marker.exists, "the job runs")
    node.kill()
    node.start()
    job = node.done(id_)
    assert (job["status"], job["attempt"], job["crashes"]) == (200, 2, 1)


@pytest.mark.timeout(90)
def test_jobs_of_a_killed_node_are_finished_by_another_one_on_the_same_store(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "shared.db")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    marker = tmp_path / "marker"
    script = f"if [ -e {marker} ]; then sed 's/^/200 /'; else touch {marker}; sleep 60; fi"
    with (
        Node(tmp_path / "first", SLIMQ_STORE__PATH=store) as first,
        Node(tmp_path / "second", SLIMQ_STORE__PATH=store) as second,
    ):
        first.put("hang", lang="exec", body=["sh", "-c", script])
        (id_,) = first.add("hang", [b"x"])
        wait_until(marker.exists, "the job runs")
        taker = first if first.job(id_)["node"] == first.call("GET", "/status")["sysid"] else second
        other = second if taker is first else first
        taker.kill()
        job = other.call("GET", f"/jobs/{id_}?wait=60")  # a lease of 30 s and a sweep of 5 s
        assert (job["state"], job["status"], job["attempt"]) == ("done", 200, 2)
        assert other.quit() == 0


def test_accepting_goes_on_while_the_engine_is_stopped(node: Node) -> None:
    node.put("echo", lang="exec", body=ECHO)
    node.call("POST", "/stop")
    (id_,) = node.add("echo", [b"x"])
    assert node.call("GET", f"/jobs/{id_}")["state"] in ("accepted", "ready")
    node.call("POST", "/start")
    assert node.done(id_)["result"] == "x"


def test_children_printed_by_a_job_run_too(node: Node) -> None:
    script = 'while read -r line; do echo "#J: child|$line"; echo 200; done'
    node.put("parent", lang="exec", body=["sh", "-c", script])
    node.put("child", lang="exec", body=["sed", "s/^/200 child of /"])
    (id_,) = node.add("parent", [b"x"])
    node.done(id_)
    wait_until(lambda: node.call("GET", "/jobs?jobtype=child")["jobs"], "the child in the store")
    (child,) = node.call("GET", "/jobs?jobtype=child")["jobs"]
    assert node.done(child["id"])["result"] == "child of x"


def test_a_url_gets_jobs_one_by_one_with_a_signature_that_others_verify(node: Node) -> None:
    secret = (node.folder / "data" / "webhook.secret").read_text().strip()
    got: list[bytes] = []
    verified: list[Any] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            verified.append(
                Webhook(secret).verify(body, {k.lower(): v for k, v in self.headers.items()})
            )
            got.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        node.put("hook", lang="http", body=f"http://127.0.0.1:{server.server_port}/")
        ids = node.add("hook", [b'{"n":1}', b'{"n":2}'])
        assert [node.done(id_)["result"] for id_ in ids] == ["ok", "ok"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(verified) == 2
    assert sorted(got) == [b'{"n":1}', b'{"n":2}']
