"""How a function is found in its files, and what is said when it is not."""

from __future__ import annotations

import os
import sys

from .values import summary

TYPE_CHECKING = False  # see values.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

HANDLE_BATCH, HANDLER, LAMBDA_HANDLER = "handle_batch", "handler", "lambda_handler"
_ASYNC = 0x80 | 0x200  # CO_COROUTINE, CO_ASYNC_GENERATOR


class CannotStart(Exception):
    """Why a function cannot be run; `file` and `line` say where, when that is known."""

    def __init__(self, why: str, file: str = "", line: int | None = 0) -> None:
        super().__init__(why)
        self.file, self.line = file, line or 0


def extend_path(folder: str, packages: str, site: str) -> None:
    """Make modules be found: Python's own first, then those of the function, then what it
    needs, then what is installed for the interpreter."""
    sys.path.append(folder)
    if packages or site:
        from site import addsitedir, main

        if packages:
            addsitedir(packages)
        if site:
            main()


def check_syntax(folder: str) -> None:
    """Compile every Python file of a folder; raise CannotStart for one that cannot be."""
    for path, _, names in os.walk(folder):
        for name in sorted(names):
            if name.endswith(".py"):
                _compile(f"{path}/{name}", folder)


def _compile(file: str, folder: str) -> None:
    where = in_folder(file, folder)
    try:
        with open(file, "rb") as stream:
            compile(stream.read(), file, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise CannotStart(error.msg, where, error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise CannotStart(summary(error), where) from None


def load(folder: str, module: str) -> ModuleType:
    """Import the module that a function begins in; raise CannotStart."""
    try:
        return _import(folder, module)
    except BaseException as error:
        raise _why(error, folder) from error


def _import(folder: str, module: str) -> ModuleType:
    """Python's own modules go before those of the folder. The one that is asked for is taken
    from there all the same, whatever its name: a function may be called ``email``."""
    path = f"{folder}/{module}.py"
    if "." in module or not os.path.exists(path):
        __import__(module)
        return sys.modules[module]
    from importlib.machinery import ModuleSpec, SourceFileLoader

    name = "_" + module if module in sys.stdlib_module_names else module
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    spec.has_location = True
    loaded = type(sys)(name)
    loaded.__file__, loaded.__spec__, loaded.__loader__ = path, spec, loader
    sys.modules[name] = loaded
    loader.exec_module(loaded)
    return loaded


def _why(error: BaseException, folder: str) -> CannotStart:
    if isinstance(error, SyntaxError) and in_folder(error.filename, folder):
        return CannotStart(error.msg, in_folder(error.filename, folder), error.lineno)
    file, line, trace = "", 0, error.__traceback__
    while trace is not None:
        where = in_folder(trace.tb_frame.f_code.co_filename, folder)
        if where:
            file, line = where, trace.tb_lineno
        trace = trace.tb_next
    return CannotStart(summary(error), file, line)


def find(loaded: ModuleType, folder: str, name: str, for_sqs: bool) -> Callable[..., Any]:
    """Return what is to be called: `name`, or what has one of the usual names."""
    file = in_folder(getattr(loaded, "__file__", None), folder)
    usual = [LAMBDA_HANDLER, HANDLER] if for_sqs else [HANDLE_BATCH, HANDLER, LAMBDA_HANDLER]
    names = [name] if name else usual
    found = [each for each in names if hasattr(loaded, each)]
    if not found:
        raise CannotStart(f"there is no {' or '.join(names)}", file)
    called: Callable[..., Any] = getattr(loaded, found[0])
    if not callable(called):
        raise CannotStart(f"{found[0]} cannot be called", file)
    if getattr(getattr(called, "__code__", None), "co_flags", 0) & _ASYNC:
        raise CannotStart(f"{found[0]} is async: write def, and run a loop of your own", file)
    return called


def in_folder(file: str | None, folder: str) -> str:
    """Return a path below a folder as it is there; '' for any other."""
    return file[len(folder) + 1 :] if file and file.startswith(folder + "/") else ""
