"""Nodes that only accept and nodes that only run, on one store."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import ECHO, Answer, Node, wait_until

RULE = "server.roles of this node has no accept: add jobs at a node that has it"
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "mail", "data": "x"}
CLOUD_EVENT = "application/cloudevents+json"


def node_of(folder: Path, roles: str) -> Node:
    """Start a node with these roles; all of them share one store."""
    (folder / roles).mkdir()
    store = str(folder / "store.db")
    return Node(folder / roles, SLIMQ_STORE__PATH=store, SLIMQ_SERVER__ROLES=roles)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Node]:
    with node_of(tmp_path, "accept") as node:
        yield node


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Node]:
    with node_of(tmp_path, "run") as node:
        yield node


def nodes_seen_by(node: Node) -> list[Any]:
    nodes: list[Any] = node.call("GET", "/nodes")["nodes"]
    return nodes


def refusals(node: Node) -> list[Answer]:
    """Return the answers to all ways of adding a job."""
    event = json.dumps(EVENT).encode()
    job = json.dumps({"jobtype": "echo", "data": "x"}).encode()
    return [
        node.ask("POST", "/add?jobtype=echo", b"x\n"),
        node.ask("POST", "/jobs", job, **{"Content-Type": "application/json"}),
        node.ask("POST", "/jobs?jobtype=echo", event, **{"Content-Type": CLOUD_EVENT}),
    ]


def test_what_an_edge_node_accepts_is_run_by_a_node_that_runs_and_never_by_itself(
    edge: Node, runner: Node
) -> None:
    edge.put("echo", lang="exec", body=ECHO)
    ids = [id_ for number in range(20) for id_ in edge.add("echo", [b"%d" % number])]
    runs = [edge.done(id_)["runs"] for id_ in ids]
    ran_by = runner.call("GET", "/status")["sysid"]
    assert {run["node"] for (run,) in runs} == {ran_by}
    assert edge.call("GET", "/status")["node"]["counters"]["finished"]["ok"] == 0


def test_an_edge_node_starts_nothing_also_when_its_engine_is_stopped_and_started(
    edge: Node,
) -> None:
    edge.put("echo", lang="exec", body=ECHO)
    edge.call("POST", "/stop")
    edge.call("POST", "/start")
    answer = edge.post("echo", [b"x"], "&durability=store")
    (id_,) = answer.document["ids"]
    job = edge.call("GET", f"/jobs/{id_}?wait=3")
    assert (job["state"], job["attempt"]) == ("ready", 0)


def test_a_node_that_only_runs_refuses_every_way_of_adding_and_says_why(runner: Node) -> None:
    for answer in refusals(runner):
        assert answer.status == 503
        assert answer.document["type"] == "/problems/not-accepting"
        assert answer.document["detail"] == RULE


def test_a_node_that_only_runs_answers_questions_takes_changes_and_adds_children(
    edge: Node, runner: Node
) -> None:
    parent = ["sed", "s/.*/#J: child|&\\n200 &/"]
    runner.put("parent", lang="exec", body=parent)
    runner.put("child", lang="exec", body=ECHO)
    (id_,) = edge.add("parent", [b"x"])
    assert runner.done(id_)["result"] == "x"
    wait_until(lambda: list(runner.jobs(jobtype="child")), "the child is in the store")
    (child,) = runner.jobs(jobtype="child")
    assert runner.done(child["id"])["result"] == "x"
    assert runner.call("POST", "/jobs/retry?jobtype=child&outcome=ok")["count"] == 1
    assert runner.call("PATCH", "/types/child", b'{"weight":2}')["weight"] == 2


def test_a_node_that_only_runs_is_well_but_not_ready_for_jobs(runner: Node) -> None:
    assert runner.problems() == ""
    ready = runner.ask("GET", "/readyz")
    assert (ready.status, ready.document["type"]) == (503, "/problems/not-accepting")


def test_a_node_says_its_roles(edge: Node, runner: Node) -> None:
    assert runner.call("GET", "/status")["node"]["roles"] == ["run"]
    wait_until(lambda: len(nodes_seen_by(runner)) == 2, "both are registered")
    seen = {node["url"]: node for node in nodes_seen_by(runner)}
    for node, roles in ((edge, ["accept"]), (runner, ["run"])):
        said = seen[node.url]
        assert (said["roles"], said["state"], said["data"]) == (roles, "alive", str(node.data))
        assert (said["pid"], said["host"]) == (node.process.pid, socket.gethostname())
        assert abs(said["clock_skew_ms"]) < 2_000


def test_a_node_that_was_killed_and_is_back_is_listed_once(edge: Node) -> None:
    wait_until(lambda: nodes_seen_by(edge), "it is registered")
    (before,) = nodes_seen_by(edge)
    edge.kill()
    edge.start()
    wait_until(
        lambda: [node["sysid"] for node in nodes_seen_by(edge)] not in ([], [before["sysid"]]),
        "it is registered anew",
    )
    assert len(nodes_seen_by(edge)) == 1
