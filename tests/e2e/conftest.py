"""What tests with real nodes may ask for."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def chance() -> random.Random:
    seed = os.environ.get("SLIMQ_TEST_SEED") or os.urandom(4).hex()
    print(f"SLIMQ_TEST_SEED={seed}")
    return random.Random(seed)
