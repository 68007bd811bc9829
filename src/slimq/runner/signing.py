"""Signs requests by Standard Webhooks 1.0, so that a target knows who calls.

``webhook-signature: v1,<base64 HMAC-SHA256 of "<id>.<timestamp>.<body>">``, one for each
secret, separated by spaces: during a rotation both the old and the new secret sign.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from binascii import Error as Base64Error
from binascii import b2a_base64
from collections.abc import Sequence

from slimq.core.limits import SECRET_MAX, SECRET_MIN

PREFIX = "whsec_"


def read_secret(text: str) -> bytes:
    """Return the key that ``whsec_<base64>`` means; raise ValueError naming the rule.
    The error does not show the secret."""
    rule = f"a webhook secret is {PREFIX} and the base64 of {SECRET_MIN} to {SECRET_MAX} bytes"
    try:
        key = b64decode(text.removeprefix(PREFIX), validate=True)
    except (Base64Error, ValueError):
        raise ValueError(rule) from None
    if not text.startswith(PREFIX) or not SECRET_MIN <= len(key) <= SECRET_MAX:
        raise ValueError(rule)
    return key


class Signer:
    """Signs with every secret of `secrets` (text, see `read_secret`), in that order."""

    def __init__(self, secrets: Sequence[str]) -> None:
        keys = [read_secret(secret) for secret in secrets]
        self._keyed = [hmac.new(key, digestmod=hashlib.sha256) for key in keys]

    def headers(self, message: str, timestamp: int, body: bytes) -> list[str]:
        """Return the header lines of the request with the id `message` at `timestamp`
        (seconds since the epoch). Without a secret there is no signature."""
        lines = [f"webhook-id: {message}", f"webhook-timestamp: {timestamp}"]
        if self._keyed:
            signed = b"%s.%d.%s" % (message.encode(), timestamp, body)
            signatures = " ".join([_sign(keyed, signed) for keyed in self._keyed])
            lines.append(f"webhook-signature: {signatures}")
        return lines


def _sign(keyed: hmac.HMAC, signed: bytes) -> str:
    """A copy of what has hashed the key already is faster than `hmac.digest`, and does not let
    other threads run before it has hashed a short body."""
    code = keyed.copy()
    code.update(signed)
    return "v1," + b2a_base64(code.digest(), newline=False).decode()


def batch_id(ids: Sequence[str]) -> str:
    """Return the id of a batch: the same jobs in the same order have the same one."""
    return "batch_" + hashlib.sha256(",".join(ids).encode()).hexdigest()[:32]
