"""A whole node in this process, and somebody who talks to it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from slimq.config import Config, load
from slimq.node import Node
from slimq.runner.sandbox import Sandbox
from slimq.store.sqlite import SqliteStore
from slimq.system.chance import SystemChance
from slimq.system.clock import SystemClock
from slimq.system.log import EventLog

Scene = Callable[["Caller"], Awaitable[None]]


class Caller:
    """Talks to a node that runs on this loop."""

    def __init__(self, session: aiohttp.ClientSession, node: Node) -> None:
        self._session = session
        self.node = node

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        async with self._session.request(method, path, **arguments) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def add(self, path: str, data: bytes) -> list[str]:
        ids: list[str] = (await self.call("POST", path, data=data))["ids"]
        return ids

    async def all_in(self) -> None:
        """Return when all that was accepted is in the store."""
        while (await self.call("GET", "/status"))["node"]["journal"]["pending_bytes"]:
            await asyncio.sleep(0.01)

    async def status(self, method: str, path: str) -> int:
        async with self._session.request(method, path) as answer:
            return answer.status

    async def text(self, path: str) -> str:
        async with self._session.get(path) as answer:
            return await answer.text()

    async def durability(self, path: str, data: bytes) -> str:
        async with self._session.post(path, data=data) as answer:
            return answer.headers["Slimq-Durability"]

    async def done(self, id_: str) -> Any:
        job = await self.call("GET", f"/jobs/{id_}?wait=30")
        assert job["state"] == "done"
        return job


class Yard:
    """A data folder, and nodes that run on it one after the other."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        given = {"data.path": str(folder / "data"), "server.port": "0", **(settings or {})}
        self.config: Config = load(given, {}, folder / "config")
        self.log = io.StringIO()

    def run(
        self,
        scene: Scene | None = None,
        chance: SystemChance | None = None,
        sandbox: Sandbox | None = None,
    ) -> int:
        """Run a node, play the scene, quit; return the exit code."""
        log = EventLog(self.log, SystemClock())
        node = Node(self.config, log, chance or SystemChance(), sandbox=sandbox)
        return uvloop.run(self._serve(scene, node))

    async def _serve(self, scene: Scene | None, node: Node) -> int:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(node.serve(ready.set_result))
        url = await ready
        try:
            if scene is not None:
                async with aiohttp.ClientSession(url) as session:
                    await scene(Caller(session, node))
                node.quit()
        except BaseException:
            node.quit()
            await serving
            raise
        return await serving

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def store(self) -> SqliteStore:
        return SqliteStore(self.config.store_path, clock=SystemClock(), durable=True)
