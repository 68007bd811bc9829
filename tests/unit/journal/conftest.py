from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_kit import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    bench.writer.open()
    yield bench
    bench.disk.heal()
    bench.writer.close()
