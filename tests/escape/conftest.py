from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from escape.outside import Outside


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    with tempfile.TemporaryDirectory(prefix="slimq-outside-") as folder:  # pytest's are closed
        found = Outside(Path(folder))
        yield found
        found.close()
