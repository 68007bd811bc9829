"""The runners of a node: commands, URLs, and functions where there is a sandbox for them.

Which of them runs a handler is told by its language; `slots` is how many batches of each language
run at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from slimq.config import NETWORK_PUBLIC, SANDBOX_OFF, Config
from slimq.core.handler import Handler, bad_field
from slimq.core.limits import CONTEXTS_MAX
from slimq.runner.address import AddressPolicy
from slimq.runner.base import Runner
from slimq.runner.command import DEFAULT_ENVIRONMENT, SYSID_VARIABLE, CommandRunner
from slimq.runner.egress import Egress
from slimq.runner.function import FunctionRunner
from slimq.runner.http import HttpRunner
from slimq.runner.http_connect import Connector
from slimq.runner.http_curl import CurlCaller
from slimq.runner.http_plain import PlainCaller
from slimq.runner.sandbox import Sandbox
from slimq.runner.sandbox_probe import Level, examine
from slimq.system.cgroup import ControlGroups
from slimq.system.clock import Clock
from slimq.system.leftover import kill_leftovers

NO_FUNCTIONS = "functions run in a sandbox; this node has none: slimq doctor says how to mend it"


class FunctionCells:
    """Where functions run on this node: the sandbox, its way into the network, and what it was
    found to hold. Without `sandbox` it is what the machine and the configuration allow."""

    def __init__(self, config: Config, sandbox: Sandbox | None) -> None:
        is_open = config.functions.network == NETWORK_PUBLIC
        self._way_out = Egress(AddressPolicy(config.http.allow)) if is_open else None
        self.sandbox = sandbox or Sandbox(
            ControlGroups(),
            unsafe=config.functions.sandbox == SANDBOX_OFF,
            way_out=self._way_out,
        )
        self.level: Level | None = None

    def examine(self) -> None:
        """Find out what the sandbox holds. Blocks: it starts something in it."""
        self.level = examine(self.sandbox)

    def close(self) -> None:
        if self._way_out is not None:
            self._way_out.close()


class Runners:
    """Used on the event loop. `cells` are examined. What commands and functions start bears the
    mark of `sysid`."""

    def __init__(
        self, config: Config, sysid: str, secrets: list[str], cells: FunctionCells, clock: Clock
    ) -> None:
        policy = AddressPolicy(config.http.allow)
        http = HttpRunner(
            clock=clock,
            policy=policy,
            callers=[PlainCaller(Connector(policy)), CurlCaller(policy)],
            secrets=secrets,
            connections_per_host=config.run.connections_per_host,
        )
        command = CommandRunner({**DEFAULT_ENVIRONMENT, SYSID_VARIABLE: sysid})
        self._functions = _function_runner(config, sysid, cells)
        usual = max(1, 2 * (os.cpu_count() or 1) // config.server.workers)
        self.of_lang: dict[str, Runner] = {"exec": command, "http": http}
        self.slots = {"exec": config.run.exec_slots or usual, "http": config.run.http_slots}
        if self._functions is not None:
            langs = self._functions.langs
            self.of_lang |= dict.fromkeys(langs, self._functions)
            slots = config.functions.slots or min(usual, CONTEXTS_MAX)
            self.slots |= dict.fromkeys(langs, slots)

    def runner_of(self, handler: Handler) -> Runner:
        """Raises BadHandler when nothing here runs it."""
        runner = self.of_lang.get(handler.lang, self._functions)
        if runner is None:
            raise bad_field("lang", NO_FUNCTIONS)
        return runner

    async def try_out(self, handler: Handler) -> None:
        self.runner_of(handler).check(handler)
        if self._functions is not None:
            await self._functions.try_out(handler)

    def progress(self, id: str) -> tuple[int, int] | None:
        return None if self._functions is None else self._functions.progress(id)

    def facts(self) -> dict[str, Any] | None:
        """Return those of functions; None where there are none."""
        return None if self._functions is None else self._functions.facts()

    async def close(self) -> None:
        for runner in dict.fromkeys(self.of_lang.values()):
            await runner.close()


def kill_started_by(sysids: Iterable[str]) -> int:
    """Kill all that runners of these marks started and that is still there; return how many."""
    return sum(kill_leftovers(f"{SYSID_VARIABLE}={sysid}".encode()) for sysid in sysids)


def _function_runner(config: Config, sysid: str, cells: FunctionCells) -> FunctionRunner | None:
    """Without a sandbox there is none, and functions wait for a node that has one."""
    if cells.level is None or not cells.level.ready:
        return None
    return FunctionRunner(
        cells.sandbox,
        config.functions_path,
        memory_max=config.functions.memory // config.server.workers,
        idle_s=config.functions.idle_ms / 1000,
        environment={SYSID_VARIABLE: sysid},
        environments=config.environments,
        builder={**os.environ, SYSID_VARIABLE: sysid},
    )
