from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimq.core.size import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("1B", 1), ("512KiB", 524_288), ("128MiB", 134_217_728), ("2TiB", 2 << 40)],
)
def test_a_size_is_a_number_and_a_binary_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1", "1 MiB", "1MB", "1mib", "-1B", "1.5GiB", "٣B", "1B\n"])
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="for example 128MiB"):
        parse_bytes(text)


@given(st.integers(0, 999_999_999), st.sampled_from([1, 1 << 10, 1 << 20, 1 << 30, 1 << 40]))
def test_what_is_formatted_is_read_back(number: int, unit: int) -> None:
    assert parse_bytes(format_bytes(number * unit)) == number * unit
