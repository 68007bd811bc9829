"""What is sent to PostgreSQL arrives as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postgres_kit import Server
from slimq.store.postgres_tx import Tx, TypeIds

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
LISTS = {
    "bigint": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=9),
    "text": st.lists(
        TEXTS | st.sampled_from(["", "NULL", '"', "\\", "{}", ",", " a "]), max_size=9
    ),
    "bytea": st.lists(st.binary(max_size=9), max_size=9),
}


@pytest.fixture(scope="module")
def tx(postgres: Server) -> Iterator[Tx]:
    with closing(postgres.connect()) as db:
        yield Tx(db, TypeIds())


@pytest.mark.parametrize("kind", LISTS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_list_arrives_as_it_was_sent(tx: Tx, kind: str, data: st.DataObject) -> None:
    values = data.draw(LISTS[kind])
    assert [each for (each,) in tx.all(f"SELECT unnest(%s::{kind}[])", (values,))] == values


def test_texts_may_miss_some(tx: Tx) -> None:
    values = ["a", None, 'b"']
    assert [each for (each,) in tx.all("SELECT unnest(%s::text[])", (values,))] == values
