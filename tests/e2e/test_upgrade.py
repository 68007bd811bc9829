"""Installed packages of several versions of slimq on one PostgreSQL: nodes are replaced one by one
under load, and the schema is brought up to date by the first newer one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from adder_kit import Adder
from node_kit import ECHO, Node, wait_until
from package_kit import install

from postgres_kit import Server
from slimq.store.migrate import POSTGRES, known

NOW = known(POSTGRES).latest
SHARED = f"-- least: {NOW}\nALTER TABLE slimq.job ADD COLUMN colour text;\n"
ALONE = "ALTER TABLE slimq.job ADD COLUMN size text;\n"
STORE_REFUSED = 8


class Packages(NamedTuple):
    """Folders of installed packages: as it is now; with a change of the schema that the one
    before does not notice; with one more that shuts out both."""

    now: Path
    next: Path
    last: Path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("packages")
    shared, alone = f"{NOW + 1:04}_colour", f"{NOW + 2:04}_size"
    return Packages(
        install(folder, "7.0.0", {}),
        install(folder, "7.1.0", {shared: SHARED}),
        install(folder, "8.0.0", {shared: SHARED, alone: ALONE}),
    )


class Place:
    """A folder of a node on the store, in which packages take turns; and its callers."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self._folder, self._url = folder, url
        self._made = ExitStack()

    def run(self, package: Path) -> Node:
        """Start a node of this package."""
        settings = {"SLIMQ_STORE__URL": self._url, "PYTHONPATH": str(package)}
        self.node = self._made.enter_context(Node(self._folder, **settings))
        assert self.node.call("GET", "/status")["version"] == package.name
        return self.node

    def refusal(self, package: Path) -> tuple[int, str]:
        """Start a node that must refuse to start; return its exit code and its line."""
        ended = slimq(package, "serve", "--port", "0", "--data", "d", "--store-url", self._url)
        return ended.returncode, ended.stderr

    def close(self) -> None:
        self._made.close()


def slimq(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slimq", *words],
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def schema(package: Path, url: str) -> Any:
    """Return what a package says of the schema of the store."""
    said = slimq(package, "db", "version", "--json", "--store-url", url)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.fixture
def server(make_postgres: Callable[..., Server]) -> Server:
    return make_postgres()


@pytest.fixture
def places(server: Server, tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    first, second = (
        Place(tmp_path / "first", server.url()),
        Place(tmp_path / "second", server.url()),
    )
    yield first, second
    first.close()
    second.close()


def done(server: Server) -> dict[str, str]:
    """Return which node ran each line; each is done, and OK."""
    rows = server.execute("SELECT convert_from(data, 'UTF8'), node, status FROM slimq.done")
    assert {status for _, _, status in rows} <= {200}
    assert len({line for line, _, _ in rows}) == len(rows), "a line is there twice"
    return {line: node for line, node, _ in rows}


@pytest.mark.timeout(240)
def test_nodes_of_two_adjacent_packages_share_a_store_while_they_are_replaced_under_load(
    packages: Packages, server: Server, places: tuple[Place, Place]
) -> None:
    first, second = places
    node = first.run(packages.now)
    second.run(packages.now)
    node.put("work", lang="exec", body=ECHO, options={"batch_size": 5})
    with ExitStack() as stack:
        adders: list[Adder] = []

        def add(place: Place) -> None:
            adders.append(Adder(place.node, f"adder-{len(adders)}", pause_s=0.05))
            stack.callback(adders[-1].close)

        def replace(place: Place, package: Path) -> str:
            """Return the sysid of the node that takes over."""
            assert place.node.quit() == 0
            place.run(package)
            add(place)
            return str(place.node.call("GET", "/status")["sysid"])

        def all_run_some(*sysids: str) -> None:
            before = len(done(server))
            wait_until(
                lambda: {*sysids} <= {*list(done(server).values())[before:]},
                f"{sysids} run jobs",
                timeout_s=60,
            )

        add(first)
        add(second)
        old = str(first.node.call("GET", "/status")["sysid"])
        new = replace(second, packages.next)
        assert schema(packages.next, server.url())["state"] == "current"
        assert schema(packages.now, server.url())["state"] == "newer"
        all_run_some(old, new)
        server.terminate_backends("postgres")  # the older one connects to a newer schema
        all_run_some(old, new)
        # Runs are recorded on another connection than the engine's, which may come back later.
        wait_until(lambda: first.node.problems() == "", "the older one is well")
        newest = replace(first, packages.next)
        all_run_some(newest, new)
    acknowledged = {line for adder in adders for line in adder.acknowledged}
    wait_until(lambda: acknowledged <= done(server).keys(), "all is done")
    assert done(server).keys() <= acknowledged | {x for adder in adders for x in adder.unknown}
    assert first.node.quit() == second.node.quit() == 0


def test_a_package_that_shuts_the_older_one_out_accepts_and_waits_until_its_nodes_are_gone(
    packages: Packages, server: Server, places: tuple[Place, Place]
) -> None:
    first, second = places
    old = first.run(packages.next)
    old.put("work", lang="exec", body=ECHO)
    new = second.run(packages.last)
    wait_until(lambda: "too old for its next schema" in new.problems(), "it says why it waits")
    waiting = new.add("work", [b"waits"])
    ran = old.add("work", [b"runs"])
    assert old.done(ran[0])["status"] == 200
    assert new.job(waiting[0])["state"] == "accepted"
    assert old.quit() == 0
    wait_until(lambda: not new.problems(), "it goes on")
    assert new.done(waiting[0])["status"] == 200
    assert schema(packages.last, server.url())["schema"] == NOW + 2
    code, line = first.refusal(packages.next)
    assert (code, line.count("\n")) == (STORE_REFUSED, 1)
    assert "install the newer version" in line
