from __future__ import annotations

import pytest

from slimq.api.keys_pending import Owner, PendingKeys, TypeKey
from slimq.errors import KeyInFlight
from slimq.journal.record import Header
from slimq.store.base import KeyUse

KEY = TypeKey("main/mail", "order-7")
RECORD = "0000001-aaaaaaaa-0000"
USE = KeyUse(RECORD, 1, "digest")
OWNER = Owner(USE, "journal", None)
HEADER = Header(kind="lines", id=RECORD, count=1, at=5, type="main/mail", key="order-7")


def test_a_key_is_free_in_flight_pending_and_free_again():
    keys = PendingKeys()
    assert keys.begin(KEY) is None
    with pytest.raises(KeyInFlight):
        keys.begin(KEY)
    keys.submitted(RECORD, [KEY])
    keys.accepted(RECORD, {KEY: OWNER})
    assert keys.begin(KEY) == OWNER
    keys.ingested([HEADER])
    assert len(keys) == 0
    assert keys.begin(KEY) is None


def test_a_cancelled_key_is_free():
    keys = PendingKeys()
    keys.begin(KEY)
    keys.submitted(RECORD, [KEY])
    keys.cancel([KEY], RECORD)
    assert len(keys) == 0
    assert keys.begin(KEY) is None


def test_a_record_that_is_ingested_before_it_is_reported_durable_leaves_nothing_behind():
    keys = PendingKeys()
    keys.begin(KEY)
    keys.submitted(RECORD, [KEY])
    keys.ingested([HEADER])
    keys.accepted(RECORD, {KEY: OWNER})
    assert len(keys) == 0


def test_of_two_restored_records_with_one_key_the_older_owns_it():
    keys = PendingKeys()
    keys.restore(HEADER, {KEY: USE})
    keys.restore(Header(kind="lines", id="0000002-aaaaaaaa-0000", count=1, at=6), {
        KEY: KeyUse("0000002-aaaaaaaa-0000", 1, "digest"),
    })  # fmt: skip
    owner = keys.begin(KEY)
    assert owner is not None
    assert owner.use == USE
    keys.ingested([HEADER])
    assert len(keys) == 0
