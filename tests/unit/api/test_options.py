from __future__ import annotations

import pytest

from slimq.api.options import (
    AddOptions,
    AddOptionsReader,
    When,
    parse_at,
    read_key,
    read_parameters,
    read_trace,
)
from slimq.core.limits import DELAY_MAX_MS
from slimq.errors import BadName, BadParameter

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def options_of(query: bytes) -> AddOptions:
    return AddOptionsReader().read(query)


def test_only_the_jobtype_is_required():
    assert options_of(b"jobtype=mail") == AddOptions("main/mail", When(), "journal", False)


def test_every_option_is_read():
    query = b"client=acme&jobtype=mail&delay=90s&durability=store&ids=all"
    assert options_of(query) == AddOptions("acme/mail", When(delay_ms=90_000), "store", True)


def test_the_same_query_is_read_once():
    reader = AddOptionsReader()
    assert reader.read(b"jobtype=mail") is reader.read(b"jobtype=mail")


def test_percent_encoding_is_undone():
    assert options_of(b"jobty%70e=a%2Db").type == "main/a-b"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        (b"jobtype=a&x=1", "jobtype, client, delay, at, durability, ids"),
        (b"jobtype=a&jobtype=a", "repeated"),
        (b"jobtype=a&jobty%70e=b", "repeated"),
        (b"jobtype=a&delay=5", "90s"),
        (b"jobtype=a&delay=", "90s"),
        (b"jobtype=a&delay=-5s", "90s"),
        (b"jobtype=a&delay=5s&at=1764000000000", "exclude"),
        (b"jobtype=a&at=tomorrow", "RFC 3339"),
        (b"jobtype=a&at=", "RFC 3339"),
        (b"jobtype=a&at=1764000000", "epoch milliseconds"),
        (b"jobtype=a&at=2026-11-24T09:30:00", "offset"),
        (b"jobtype=a&at=2026-13-24T09:30:00Z", "RFC 3339"),
        (b"jobtype=a&durability=none", "buffered"),
        (b"jobtype=a&durability=", "buffered"),
        (b"jobtype=a&ids=none", "all"),
        (b"jobtype=%ff", "UTF-8"),
        (b"&".join(b"x=1" for _ in range(20)), "16"),
    ],
)
def test_a_bad_parameter_is_refused_and_the_rule_is_named(query: bytes, word: str):
    with pytest.raises(BadParameter) as caught:
        options_of(query)
    assert word in caught.value.detail


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"jobtype=",
        b"jobtype=.a",
        b"jobtype=a/b",
        b"jobtype=a%0A",
        b"jobtype=" + b"a" * 129,
        b"jobtype=__done",
        b"jobtype=a&client=",
        b"jobtype=a&client=*",
        b"jobtype='; drop table job; --",
        b"jobtype=..%2F..%2Fetc",
        b"jobtype=a%00",
        b"jobtype=a%7Cb",
        b"jobtype=a%E2%80%A8",
    ],
)
def test_a_bad_name_is_refused(query: bytes):
    with pytest.raises(BadName):
        options_of(query)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-24T09:30:00Z", 1_795_512_600_000),
        ("2026-11-24t09:30:00.5z", 1_795_512_600_500),
        ("2026-11-24 11:30:00.123456789+02:00", 1_795_512_600_123),
        ("2026-11-24T11:30:00 02:00", 1_795_512_600_000),
        ("2026-11-24T07:00:00-02:30", 1_795_512_600_000),
        ("1795512600000", 1_795_512_600_000),
        ("0001-01-01T00:00:00Z", 0),
    ],
)
def test_a_time_is_read_to_the_millisecond(text: str, ms: int):
    assert parse_at(text) == ms


def test_a_time_in_the_past_is_now():
    assert When(at_ms=5).due_at(1_000) == 1_000
    assert When(at_ms=1_500).due_at(1_000) == 1_500
    assert When(delay_ms=20).due_at(1_000) == 1_020
    assert When().due_at(1_000) == 1_000


@pytest.mark.parametrize("when", [When(delay_ms=DELAY_MAX_MS + 1), When(at_ms=DELAY_MAX_MS + 11)])
def test_a_job_deferred_by_more_than_a_year_is_refused(when: When):
    with pytest.raises(BadParameter):
        when.due_at(10)


def test_a_delay_of_more_than_a_year_is_refused_before_the_body_is_read():
    with pytest.raises(BadParameter):
        options_of(b"jobtype=a&delay=367d")


def test_names_of_parameters_are_case_sensitive():
    with pytest.raises(BadParameter):
        read_parameters(b"Jobtype=a", ("jobtype",))


def test_an_idempotency_key_is_printable_ascii():
    assert read_key({}) == ""
    assert read_key({b"idempotency-key": b'"a b"'}) == '"a b"'
    assert read_key({b"idempotency-key": b"k" * 255}) == "k" * 255


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"\xc3\xbc", b"a\tb"])
def test_an_idempotency_key_that_is_empty_too_long_or_not_printable_is_refused(key: bytes):
    with pytest.raises(BadParameter):
        read_key({b"idempotency-key": key})


@pytest.mark.parametrize(
    "trace",
    [
        b"",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + b"0",
        TRACE + b", " + TRACE,
        b"ff" + TRACE[2:],
        b"00-" + b"0" * 32 + TRACE[35:],
        TRACE[:36] + b"0" * 16 + b"-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(trace: bytes):
    assert read_trace({b"traceparent": trace}) == ""


def test_a_legal_traceparent_is_kept():
    assert read_trace({b"traceparent": TRACE}) == TRACE.decode()
    assert read_trace({}) == ""
