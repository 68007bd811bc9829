"""Every test starts and ends with the same open descriptors and without a child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import uvloop
from address_kit import canary
from function_kit import children
from runner_kit import (
    CALLERS,
    HTTP_BEHAVIOURS,
    CurlBench,
    DenoBench,
    ExecBench,
    FunctionBench,
    HttpBench,
    NodeBench,
    Target,
    WasmBench,
    make_http_runner,
    need_lang,
)

from slimq.runner.http import HttpRunner

__all__ = ["canary"]


def descriptors() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {link.readlink()}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


@pytest.fixture(autouse=True, scope="session")
def _first_loop() -> None:
    """The first loop of a process opens a pipe for signals, and keeps it."""
    uvloop.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before, others = descriptors(), children()
    yield
    assert descriptors() - before == set()
    assert children() == others  # a PostgreSQL of other tests may run


SCRIPTS = (NodeBench, DenoBench)
BENCHES = (ExecBench, HttpBench, CurlBench, FunctionBench, *SCRIPTS, WasmBench)


@pytest.fixture(params=BENCHES, ids=[getattr(each, "name", each.lang) for each in BENCHES])
def bench(request: pytest.FixtureRequest) -> Iterator[ExecBench | HttpBench | FunctionBench]:
    need_lang(request.param.lang)
    with request.param().open() as opened:
        yield opened


@pytest.fixture(params=CALLERS)
def http_runner(request: pytest.FixtureRequest) -> Callable[..., HttpRunner]:
    """Makes runners. All that a target can do is tried with each caller of URLs."""
    return partial(make_http_runner, request.param)


@pytest.fixture
def target() -> Iterator[Target]:
    with Target(dict(HTTP_BEHAVIOURS)).serving() as serving:
        yield serving


@pytest.fixture
def functions() -> Iterator[FunctionBench]:
    with FunctionBench().open() as opened:
        yield opened


@pytest.fixture(params=SCRIPTS, ids=[each.lang for each in SCRIPTS])
def scripts(request: pytest.FixtureRequest) -> Iterator[FunctionBench]:
    need_lang(request.param.lang)
    with request.param().open() as opened:
        yield opened


@pytest.fixture
def modules() -> Iterator[FunctionBench]:
    need_lang("wasm")
    with WasmBench().open() as opened:
        yield opened
