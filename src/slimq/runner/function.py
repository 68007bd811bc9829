"""The runner of functions: source that was uploaded runs in warm contexts, in a sandbox.

A batch goes to a context of its own client, jobtype and version (`warm.py`). What the handler
and its hooks are called with, and what their answers mean, is in `host/python_host.py` and
`docs/functions.md`. Without a sandbox there is no such runner: the node refuses functions.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slimq.core import status
from slimq.core.entry import Entry
from slimq.core.handler import Handler, bad_field
from slimq.core.job import Batch, Ran, Result
from slimq.core.jobtype import EVERY_CLIENT
from slimq.core.limits import CONTEXT_START_S, MIB
from slimq.core.needs import Needs, needs_of
from slimq.core.requirements import fits
from slimq.errors import BadHandler, NoContext
from slimq.runner.answer import bounded, same_for_all
from slimq.runner.cell import Cell
from slimq.runner.context import Context, Death, Launcher
from slimq.runner.environments import BadEnvironment, Environments
from slimq.runner.exchange import NOT_TAKEN, payload_of
from slimq.runner.function_verdict import describe, judge
from slimq.runner.packages import NotBuilt, Packages
from slimq.runner.programs import (
    Missing,
    Program,
    Programs,
    find_programs,
    python_program,
    version_of,
)
from slimq.runner.unpack import Unpacked
from slimq.runner.warm import ENDS, STARTS, Key, NotLaunched, NotStarted, WarmContexts
from slimq.system.process import Processes, SystemProcesses

RUN, CHECK = "run", "check"  # modes of the program in the context
_NOT_STARTED = "cannot start a context"
_DESCRIPTORS = 6  # standard input, output and error, and the three of the exchange


class Place(NamedTuple):
    """Where a function is on this node; `packages` is '' when it needs none."""

    folder: str
    packages: str


class FunctionRunner:
    """Runs functions (see `Runner`), on the loop of the first `run`. `folder` is where their
    files are unpacked; the packages that they need lie beside it. `programs` says what runs each
    language, `environments` names interpreters of Python, `builder` is the environment of what
    builds packages, and `environment` that of the command which starts a context, not of the
    function. The bounds are those of `WarmContexts`."""

    def __init__(
        self,
        sandbox: Launcher,
        folder: Path,
        *,
        memory_max: int,
        idle_s: float,
        environment: Mapping[str, str] | None = None,
        processes: Processes | None = None,
        programs: Programs | None = None,
        environments: Mapping[str, str] | None = None,
        builder: Mapping[str, str] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._unpacked = Unpacked(folder)
        self._environment = dict(environment or {})
        self._processes = processes or SystemProcesses()
        self._programs = find_programs() if programs is None else programs
        self._environments = Environments(environments or {}, Path(sys.executable).resolve())
        self._packages = Packages(folder.parent / "packages", builder or {})
        self._warm = WarmContexts(memory_max, idle_s)
        self._running: dict[Context, Batch] = {}

    @property
    def langs(self) -> list[str]:
        """The languages whose functions can run here."""
        return [lang for lang, each in self._programs.items() if not isinstance(each, Missing)]

    def check(self, handler: Handler) -> None:
        self._program(handler)
        needs_of(handler.lang, handler.body, handler.options)

    async def try_out(self, handler: Handler) -> None:
        """Load a function once, in a context of its own; raise BadHandler with file, line and
        reason when it cannot be run, NoContext when that could not be found out."""
        client = "main" if handler.client == EVERY_CLIENT else handler.client
        await self._check_version(self._program(handler))
        try:
            context = await self._start(handler, client, CHECK)
        except NotLaunched as error:
            raise NoContext(f"{error.why}: the function was not tried; deploy it again") from None
        except NotStarted as error:
            raise _refusal(error) from None
        await context.close()

    async def run(self, batch: Batch) -> Ran:
        client = batch.type.partition("/")[0]
        handler, count = batch.handler, len(batch.jobs)
        options = handler.options
        key = Key(client, handler.jobtype, handler.client, handler.version)
        payload = payload_of(batch.jobs, options.timeout_ms, options.job_timeout_ms)
        for is_last in (False, True):
            try:
                context = await self._warm.take(key, lambda: self._start(handler, client, RUN))
            except NotStarted as error:
                return _not_started(error, count)
            self._running[context] = batch
            try:
                ended = await context.run(
                    payload, count, options.timeout_ms / 1000, options.job_timeout_ms / 1000
                )
            finally:
                del self._running[context]
                self._warm.give_back(context)
            if is_last or ended.death is None or ended.answer.phase != NOT_TAKEN:
                break  # else it was dead before it had the batch: another one gets it
        return judge(ended, count, options, in_turn=handler.lang != "wasm")

    async def close(self) -> None:
        await self._packages.close()
        await self._warm.close()

    def progress(self, id: str) -> tuple[int, int] | None:
        """Return how far a job that runs here said it is: done, and of how much (0: unknown)."""
        for context, batch in self._running.items():
            for index, said in context.progress.items():
                if index < len(batch.jobs) and batch.jobs[index].id == id:
                    return said
        return None

    def facts(self) -> dict[str, Any]:
        """Return how many contexts there are, and what was counted so far."""
        counted = self._warm.counters
        return {
            "building": self._packages.building,
            "contexts": {"busy": self._warm.busy, "idle": self._warm.idle},
            "starts": {name: counted[name] for name in STARTS},
            "ends": {name: counted[name] for name in ENDS},
        }

    def _program(self, handler: Handler) -> Program:
        """Return what runs a function; raise BadHandler when there is nothing."""
        lang, eid = handler.lang, handler.options.eid
        if lang == "python":
            return python_program(self._environments.path(eid), self._environments.readable(eid))
        program = self._programs[lang]
        if isinstance(program, Missing):
            raise bad_field("lang", str(program))
        return program

    async def _check_version(self, program: Program) -> None:
        if not program.oldest:
            return
        version = await asyncio.get_running_loop().run_in_executor(None, version_of, program)
        if isinstance(version, Missing):
            raise bad_field("lang", str(version))

    # --- a new context -----------------------------------------------------

    async def _start(self, handler: Handler, client: str, mode: str) -> Context:
        try:
            needs = needs_of(handler.lang, handler.body, handler.options)
            packages = await self._built(needs, handler.options.eid, anew=mode == CHECK)
            folder = await asyncio.get_running_loop().run_in_executor(
                None, self._unpacked.place, needs.files
            )
            context = self._spawn(handler, client, mode, Place(str(folder), packages), needs.entry)
        except (NotBuilt, BadEnvironment) as error:
            raise NotStarted(str(error)) from error
        except BadHandler as error:
            raise NotStarted(f"{_NOT_STARTED}: {error}") from error
        except OSError as error:
            raise NotLaunched(f"{_NOT_STARTED}: {error}") from error
        said = await context.started(CONTEXT_START_S)
        if not isinstance(said, Death) and said[:1] == b"Y":
            return context
        log = context.log
        await context.close()
        if isinstance(said, Death):
            timeout_ms = int(1000 * CONTEXT_START_S)
            why = describe(said, handler.options, timeout_ms) + _last_words(log)
            if not (context.has_begun or said.limits):
                raise NotLaunched(f"{_NOT_STARTED}: {why}", log=log)
            raise NotStarted(f"the function could not be loaded: {why}", log=log)
        raise _parsed(said[1:], log)

    async def _built(self, needs: Needs, eid: str, *, anew: bool) -> str:
        """Return the folder of the packages that a function needs, '' when it needs none."""
        if not (eid or needs.requirements or needs.python):
            return ""  # a cold start waits for nothing
        found = await self._environments.interpreter(eid)
        if not fits(found.version, needs.python):
            running = ".".join(map(str, found.version))
            raise bad_field("body", f"it needs Python {needs.python}; this is {running}")
        if not needs.requirements:
            return ""
        return str(await self._packages.place(needs.requirements, found, anew=anew))

    def _spawn(
        self, handler: Handler, client: str, mode: str, place: Place, entry: Entry
    ) -> Context:
        options, program = handler.options, self._program(handler)
        about = (client, handler.jobtype, str(handler.version), str(options.memory // MIB))
        command = [*program.words(options.memory), "3", "4", "5", mode]
        words = [*place, "site" if options.eid else "", *entry, options.event, *about]
        cell = Cell(
            client=client,
            readable=(*program.readable, *filter(None, place)),
            environment=program.environment,
            network=options.network,
            memory_bytes=options.memory,
            reserved_bytes=program.reserved_bytes,
            tmp_bytes=options.tmp,
            processes=options.processes,
            cpus=options.cpus,
            descriptors=_DESCRIPTORS,
        )
        launch = self._sandbox.launch([*command, *words], cell)
        return Context(
            launch, options.memory, self._environment, self._processes, self._warm.forget
        )


def _last_words(log: bytes) -> str:
    """Return the last line that a context printed before it died: often its reason."""
    lines = log.decode("utf-8", "replace").split("\n")
    return next((f": {bounded(line.strip())}" for line in reversed(lines) if line.strip()), "")


def _parsed(said: bytes, log: bytes) -> NotStarted:
    """Read ``file NUL line NUL why``, which nobody vouches for."""
    file, _, rest = said.decode("utf-8", "replace").partition("\0")
    line, _, why = rest.partition("\0")
    return NotStarted(bounded(why), bounded(file), int(line) if line.isdecimal() else 0, log)


def _refusal(error: NotStarted) -> BadHandler:
    refusal = bad_field("body", _words(error))
    refusal.extra |= {"file": error.file} if error.file else {}
    refusal.extra |= {"line": error.line} if error.line else {}  # a null byte is on no line
    return refusal


def _words(error: NotStarted) -> str:
    where = error.file + (f", line {error.line}" if error.line else "")
    return f"{where}: {error.why}" if where else error.why


def _not_started(error: NotStarted, count: int) -> Ran:
    """No job is to blame: they run again later, and lose nothing."""
    result = Result(status.RETRY_LATER, error=bounded(_words(error)))
    return Ran(same_for_all(count, result), [[] for _ in range(count)], error.log)
