from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from slimq.runner.signing import Signer, batch_id, read_secret

secrets = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + b64encode(key).decode())
bodies = st.binary(max_size=300)
ids = st.from_regex(r"[0-9A-Z_a-z~-]{1,40}", fullmatch=True)
times = st.integers(min_value=0, max_value=2**33)


def signatures(secrets: list[str], message: str, timestamp: int, body: bytes) -> list[str]:
    lines = Signer(secrets).headers(message, timestamp, body)
    return dict(line.split(": ", 1) for line in lines)["webhook-signature"].split(" ")


@given(secrets, ids, times, bodies.map(lambda body: body.decode("latin-1").encode()))
def test_the_reference_library_signs_the_same(
    secret: str, message: str, timestamp: int, body: bytes
) -> None:
    when = datetime.fromtimestamp(timestamp, UTC)
    wanted = Webhook(secret).sign(message, when, body.decode())
    assert signatures([secret], message, timestamp, body) == [wanted]


@given(secrets, bodies.filter(bool), st.data())
def test_a_body_with_one_bit_changed_has_another_signature(
    secret: str, body: bytes, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    assert signatures([secret], "id", 1, body) != signatures([secret], "id", 1, bytes(changed))


def test_the_reference_library_verifies_the_request_of_now_and_no_other() -> None:
    secret, now = "whsec_" + "A" * 32, int(datetime.now(UTC).timestamp())
    lines = Signer(["whsec_" + "B" * 32, secret]).headers("job", now, b"{}")
    headers = dict(line.split(": ", 1) for line in lines)
    assert Webhook(secret).verify("{}", headers) == {}
    for name, other in (("webhook-id", "other"), ("webhook-timestamp", str(now + 1))):
        with pytest.raises(Exception, match="matching signature"):
            Webhook(secret).verify("{}", headers | {name: other})
    with pytest.raises(Exception, match="matching signature"):
        Webhook(secret).verify("[]", headers)


def test_during_a_rotation_both_secrets_sign_in_their_order() -> None:
    old, new = "whsec_" + "A" * 32, "whsec_" + "B" * 32
    both = signatures([old, new], "id", 1, b"x")
    assert both == signatures([old], "id", 1, b"x") + signatures([new], "id", 1, b"x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "A" * 32,
        "whsec_" + "A" * 28,
        "whsec_" + "A" * 92,
        "whsec_!" + "A" * 31,
        "WHSEC_" + "A" * 32,
        "whsec_" + "é" * 32,
    ],
)
def test_a_malformed_secret_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes") as refused:
        read_secret(text)
    assert not text or text not in str(refused.value) or text == "whsec_"


def test_the_id_of_a_batch_depends_on_its_jobs_and_their_order() -> None:
    assert batch_id(["a", "b"]) == batch_id(["a", "b"])
    assert len({batch_id(ids) for ids in (["a", "b"], ["b", "a"], ["a"], ["ab"])}) == 4
    assert len(batch_id(["a"] * 500)) == 38
