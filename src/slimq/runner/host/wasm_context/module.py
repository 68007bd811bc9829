"""A compiled module, and how its batches are run: each in an instance of its own, which takes a
fraction of a millisecond and leaves nothing to the next."""

from __future__ import annotations

import os
import re

import wasmtime
from python_context.answer import DIED, IN_HOOK, IN_JOBS, Answer, record
from python_context.context import Batch
from python_context.loading import CannotStart
from python_context.values import to_text

from .lines import Lines, TooMuch
from .streams import Streams

TYPE_CHECKING = False  # see python_context/values.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from python_context.context import About

_MIB = 1024 * 1024
_RESERVE = 8 * _MIB  # for this program itself, beside what it took at its start
_START = "_start"
_WHERE = re.compile(r":(\d+):\d+\n")  # where the text of a module cannot be read
_WRITTEN, _MARK = ".wat", b"\0asm"


class Module:
    """Compiles a file of a folder; raises CannotStart. `taken` says how much memory this process
    takes: the memory of an instance is what is left of that of the context."""

    def __init__(
        self, answer: Answer, about: About, folder: str, file: str, taken: Callable[[], int]
    ) -> None:
        self._answer, self._about = answer, about
        config = wasmtime.Config()
        config.parallel_compilation = False  # threads count as processes of the function
        self._engine = wasmtime.Engine(config)
        self._streams = Streams()
        linker = wasmtime.Linker(self._engine)
        linker.define_wasi()
        linker.allow_shadowing = True
        self._streams.define(linker)
        self._ready = _compiled(self._engine, linker, folder, file)
        self._memory_max = max(_MIB, about.memory_mb * _MIB - taken() - _RESERVE)

    def run(self, payload: bytes) -> None:
        """Run a batch; what becomes of it is in the answer."""
        batch, answer = Batch(payload), self._answer
        answer.begin()
        answer.enter(IN_JOBS, True)
        lines = Lines(answer, batch.count)
        self._streams.open(b"".join([data + b"\n" for data in batch.data]), lines)
        why = self._why_died(batch)
        lines.end()
        if why and lines.said < batch.count:
            answer.put(record(DIED, 0, to_text(why)))
        answer.enter(IN_HOOK, True)

    def _why_died(self, batch: Batch) -> str:
        """Run an instance; return why it did not end well, '' if it did."""
        store = wasmtime.Store(self._engine)
        store.set_limits(memory_size=self._memory_max)
        wasi = wasmtime.WasiConfig()
        wasi.argv = [self._about.jobtype]
        wasi.env = self._environment(batch)
        store.set_wasi(wasi)
        try:
            start: Any = self._ready.instantiate(store).exports(store)[_START]
            start(store)
        except wasmtime.ExitTrap as end:
            return f"exit code {end.code}" if end.code else ""
        except wasmtime.Trap as trap:
            os.write(1, to_text(trap.message + "\n"))
            code = trap.trap_code
            return f"trap: {code.name.lower().replace('_', ' ') if code else 'unknown'}"
        except (TooMuch, wasmtime.WasmtimeError) as error:
            return str(error)
        return ""

    def _environment(self, batch: Batch) -> list[tuple[str, str]]:
        """The variables that commands get as well."""
        about = self._about
        variables = [
            ("SLIMQ_CLIENT", about.client),
            ("SLIMQ_JOBTYPE", about.jobtype),
            ("SLIMQ_TYPE", f"{about.client}/{about.jobtype}"),
            ("SLIMQ_COUNT", str(batch.count)),
        ]
        if batch.count == 1:
            variables.append(("SLIMQ_JOB_ID", batch.ids[0]))
            variables.append(("SLIMQ_ATTEMPT", str(batch.attempts[0])))
        return variables


def _compiled(
    engine: wasmtime.Engine, linker: wasmtime.Linker, folder: str, file: str
) -> wasmtime.InstancePre:
    with open(f"{folder}/{file}", "rb") as stream:
        source = stream.read()
    is_written = file.endswith(_WRITTEN)
    if not is_written and not source.startswith(_MARK):
        raise CannotStart("it is no compiled module", file)
    try:
        if is_written:
            source = bytes(wasmtime.wat2wasm(source.decode()))
        module = wasmtime.Module(engine, source)
        ready = linker.instantiate_pre(module)
    except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
        where = _WHERE.search(str(error))
        why = " ".join(str(error).split())
        raise CannotStart(why, file, int(where[1]) if where else 0) from None
    exported = {each.name: each.type for each in module.exports}
    if not isinstance(exported.get(_START), wasmtime.FuncType):
        raise CannotStart(f"it exports no {_START}: build it as a command of WASI preview 1", file)
    if not isinstance(exported.get("memory"), wasmtime.MemoryType):
        raise CannotStart("it exports no memory", file)
    return ready
