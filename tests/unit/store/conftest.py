from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_kit import Opener


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(tmp_path / "store.db")
    yield opener
    opener.close()
