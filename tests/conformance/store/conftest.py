from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from postgres_rig import PostgresRig
from store_kit import Yard, make_pair

from clock_kit import FakeClock


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    clock = FakeClock()
    if request.param == "postgres":
        yield from _postgres_yard(request, clock)
        return
    store, other = make_pair(request.param, tmp_path, clock)
    with closing(store), closing(other):
        yield Yard(store, other, clock)


def _postgres_yard(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[Yard]:
    rig = PostgresRig(request.getfixturevalue("postgres"), clock)
    with closing(rig), closing(rig.store()) as store, closing(rig.store()) as other:
        yield Yard(store, other, clock)
