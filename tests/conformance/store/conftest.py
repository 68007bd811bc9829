from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kit import FakeClock, Yard, make_pair


@pytest.fixture(params=["memory", "sqlite"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    clock = FakeClock()
    store, other = make_pair(request.param, tmp_path, clock)
    yield Yard(store, other, clock)
    store.close()
    other.close()
