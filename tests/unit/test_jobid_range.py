"""Ids that are all there are between the least and the greatest of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slimq.core.jobid import IdBlock, whole_range

START = 1_764_000_000_000 << 24
ids = st.lists(st.integers(0, 12), min_size=1, max_size=12).map(
    lambda places: [IdBlock(START, "n0dEsYs1", 13).id_at(place) for place in places]
)


@given(ids)
def test_a_range_is_whole_when_each_id_of_it_is_there_once(ids: list[str]) -> None:
    block = IdBlock(START, "n0dEsYs1", 13).ids()
    between = [id_ for id_ in block if min(ids) <= id_ <= max(ids)]
    expected = (min(ids), max(ids)) if sorted(ids) == between else None
    assert whole_range(ids) == expected


def test_ids_of_two_milliseconds_or_nodes_are_no_whole_range() -> None:
    across = IdBlock(START + (1 << 24) - 1, "n0dEsYs1", 2).ids()
    assert whole_range(across) is None
    others = [IdBlock(START, sysid, 1).first for sysid in ("n0dEsYs1", "n0dEsYs2")]
    assert whole_range(others) is None
