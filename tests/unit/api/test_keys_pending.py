from __future__ import annotations

import pytest

from slimq.api.keys_pending import Owner, PendingKeys, TypeKey
from slimq.core.jobid import parse_id
from slimq.core.limits import IDEMPOTENCY_WINDOW_MS
from slimq.errors import KeyInFlight
from slimq.journal.record import Header
from slimq.store.base import KeyUse

KEY = TypeKey("main/mail", "order-7")
RECORD = "0000001-aaaaaaaa-0000"
NOW = 1_000  # a second after the record
USE = KeyUse(RECORD, 1, "digest")
OWNER = Owner(USE, "journal", None)
HEADER = Header(kind="lines", id=RECORD, count=1, at=5, type="main/mail", key="order-7")


def test_a_key_is_free_in_flight_pending_and_free_again():
    keys = PendingKeys()
    assert keys.begin(KEY, NOW) is None
    with pytest.raises(KeyInFlight):
        keys.begin(KEY, NOW)
    keys.submitted(RECORD, [KEY])
    keys.accepted(RECORD, {KEY: OWNER})
    assert keys.begin(KEY, NOW) == OWNER
    keys.ingested([HEADER])
    assert len(keys) == 0
    assert keys.begin(KEY, NOW) is None


def test_a_cancelled_key_is_free():
    keys = PendingKeys()
    keys.begin(KEY, NOW)
    keys.submitted(RECORD, [KEY])
    keys.cancel([KEY], RECORD)
    assert len(keys) == 0
    assert keys.begin(KEY, NOW) is None


def test_a_record_that_is_ingested_before_it_is_reported_durable_leaves_nothing_behind():
    keys = PendingKeys()
    keys.begin(KEY, NOW)
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
    owner = keys.begin(KEY, NOW)
    assert owner is not None
    assert owner.use == USE
    keys.ingested([HEADER])
    assert len(keys) == 0


def test_a_key_is_free_after_its_window_also_when_nobody_said_that_its_record_is_stored():
    keys = PendingKeys()
    keys.restore(HEADER, {KEY: USE})
    last = parse_id(RECORD).time_ms + IDEMPOTENCY_WINDOW_MS - 1
    assert keys.begin(KEY, last) == Owner(USE, "journal", None)
    assert keys.begin(KEY, last + 1) is None
