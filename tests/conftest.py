"""What tests of all folders may ask for: a PostgreSQL, and the size of a proof."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from postgres_kit import PgBouncer, Server, or_skip
from proof_kit import (  # noqa: F401 - pytest takes fixtures and hooks from this module
    proof,
    pytest_collection_modifyitems,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

_numbers = count(1)


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start also where these were started in the background of a
    shell, which ignores it for them. And let no proxy of the machine be asked for its own
    loopback address, as curl and urllib would."""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1,::1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The server that all tests share: a test may make databases, and harm none of others."""
    with or_skip(Server) as server:
        yield server


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """The address of an empty database of this test."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture
def make_postgres() -> Iterator[Callable[..., Server]]:
    """Makes servers for this test alone, to be stopped, killed, frozen: `Server(...)`."""
    with ExitStack() as made:
        yield lambda **wants: made.enter_context(or_skip(lambda: Server(**wants)))


@pytest.fixture
def make_pgbouncer() -> Iterator[Callable[..., PgBouncer]]:
    """Makes PgBouncers before a server: `PgBouncer(server, ...)`."""
    with ExitStack() as made:

        def make(server: Server, **wants: Any) -> PgBouncer:
            return made.enter_context(or_skip(lambda: PgBouncer(server, **wants)))

        yield make
